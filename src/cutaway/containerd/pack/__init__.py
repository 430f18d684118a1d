"""Layers made: what differs between two trees, as a tar stream that is the same each time."""
