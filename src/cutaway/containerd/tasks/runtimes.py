"""From a runtime's name to its shim's binary.

io.containerd.runc.v2 is containerd-shim-runc-v2 on PATH or beside us; an absolute path is itself.
"""

from __future__ import annotations

import os
import shutil
import sys

from cutaway.errors import Unknown

OUR_SHIM = "containerd-shim-cutaway-v1"


def resolve(runtime: str) -> str:
    """The absolute path of a runtime's shim.

    Raises `Unknown`, as containerd does: to its clients a missing shim is no missing object.
    """
    try:
        return _resolve(runtime)
    except LookupError as error:
        raise Unknown(f"failed to start shim: failed to resolve runtime path: {error}") from None


def _resolve(runtime: str) -> str:
    if not runtime:
        raise LookupError("no runtime name")
    if os.path.isabs(runtime):
        try:
            os.stat(runtime)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise LookupError(f"invalid custom binary path: stat {runtime}: {why}") from None
        return runtime
    name = binary_name(runtime)
    path = shutil.which(name) or shutil.which(name, path=own_directory())
    if path is None:
        raise LookupError(f'runtime "{runtime}" binary not installed "{name}": file does not exist')
    return os.path.abspath(path)


def binary_name(runtime: str) -> str:
    """The file name of a runtime's shim. Raises LookupError for a name that has too few parts."""
    parts = runtime.split(".")
    if len(parts) < 2 or "/" in runtime:
        raise LookupError(
            f"invalid runtime name {runtime}, correct runtime name should be either format like "
            "`io.containerd.runc.v1` or a full path to the binary"
        )
    return f"containerd-shim-{parts[-2]}-{parts[-1]}"


def own_directory() -> str:
    """Where our programs are installed."""
    return os.path.dirname(os.path.abspath(sys.argv[0]))


def is_ours(binary: str) -> bool:
    """Whether a path leads to the shim that is installed beside us, under whatever name."""
    return os.path.realpath(binary) == os.path.realpath(os.path.join(own_directory(), OUR_SHIM))
