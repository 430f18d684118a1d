"""Docker's json-file logs: writer (one JSON line a line of output, rotation) and reader (tail, follow)."""
