"""`-info` (containerd 1.7.5 and newer): what this shim is and what its runtime can do.

A RuntimeInfo on stdout; the options come as an Any on stdin. The features are the runtime's own
JSON, in an Any of the type that containerd gives them.
"""

import os
import subprocess
import sys

from google.protobuf.any_pb2 import Any

from cutaway import __version__
from cutaway.errors import NotFound
from cutaway.pb.runtime_info_pb2 import RuntimeInfo
from cutaway.shim import options
from cutaway.shim.launch import find_executable

_FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
_SECONDS = 10


def info(program: str) -> int:
    """Write the answer. Raises `NotFound` when the runtime is not there, `InvalidArgument`."""
    given = Any.FromString(sys.stdin.buffer.read())
    binary = options.from_any(given).binary_name or options.default_binary(program)
    answer = RuntimeInfo(name="io.containerd.cutaway.v1")
    answer.version.version = __version__
    if given.value:
        answer.options.CopyFrom(given)
    features = _features(find_executable(binary))
    if features:
        answer.features.type_url = _FEATURES
        answer.features.value = features
    os.write(1, answer.SerializeToString())
    return 0


def _features(binary: str) -> bytes:
    """Empty for a runtime that cannot say."""
    try:
        said = subprocess.run([binary, "features"], capture_output=True, check=True, timeout=_SECONDS)
    except (subprocess.SubprocessError, NotFound):
        return b""
    return said.stdout
