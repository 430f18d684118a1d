"""Layers unpacked: a tar stream that nobody trusts, applied to a directory."""
