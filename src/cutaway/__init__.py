"""Cutaway: a Docker-compatible container engine whose every layer is in view."""

__version__ = "0.1.0"
