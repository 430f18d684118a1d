"""Snapshots: directories, and the mounts that show them as one tree."""
