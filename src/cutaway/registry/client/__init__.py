"""Seam 2 from above: pulling from any registry that speaks the distribution API."""
