"""Content by digest, on disk."""
