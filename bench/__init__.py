"""Side by side with the real parts: `make bench`, or `python -m bench --rounds 40 --only run`."""
