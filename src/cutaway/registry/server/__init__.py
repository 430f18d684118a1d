"""Seam 2 from below: an OCI distribution server with its blobs in a folder."""
