"""Keeping the container's files out of the interpreter."""

import sys


def seal() -> None:
    """From now on a module is either loaded already or cannot be loaded at all.

    Called in a fork of the runtime before it enters a container's mount namespace: an import there would
    look for the runtime's modules among the container's files, and run what it finds with the host's rights.
    """
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
