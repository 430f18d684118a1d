"""How the caller of `start` says what it wants, and how it wants to be answered.

    containerd 1.6 to 2.2   flags, TTRPC_ADDRESS; the options as an Any on stdin    the plain address
    MAX_SHIM_VERSION >= 3   the same                                                JSON, version 3
    containerd 2.3 and on   flags, and BootstrapParams on stdin                     BootstrapResult, version 3

Version 3 differs from 2 in the task service's name alone. containerd 1.7 to 2.2 say MAX_SHIM_VERSION=2,
and 1.7 means it: it refuses a 3. Source: containerd's pkg/shim and api/runtime/bootstrap/v1.
"""

import os

from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.pb.bootstrap_pb2 import BootstrapParams
    from cutaway.shim.arguments import Arguments
    from cutaway.shim.options import Options

_MAX_VERSION = "MAX_SHIM_VERSION"
_EVENTS = "TTRPC_ADDRESS"
_VERSION = 3
_PROTOCOL = "ttrpc"
_DEBUG = -4  # log levels from here downwards


class Bootstrap:
    """A caller's wishes for a shim that is to start."""

    def __init__(self, given: bytes, arguments: "Arguments") -> None:
        """`given` is what came on stdin; the flags are completed from it. Raises `InvalidArgument`."""
        self._params = _params(given, arguments["id"], arguments["namespace"])
        self._given = given
        self.socket_dir = ""
        if self._params is not None:
            self.socket_dir = self._params.socket_dir
            _complete(arguments, self._params)

    def options(self) -> "Options":
        """The runtime's options. Raises `InvalidArgument`."""
        from google.protobuf.any_pb2 import Any
        from google.protobuf.message import DecodeError

        from cutaway.shim import options

        if self._params is not None:
            for extension in self._params.extensions:
                if options.is_ours(extension.value):
                    return options.from_any(extension.value)
            return options.Options()
        try:
            return options.from_any(Any.FromString(self._given))
        except DecodeError as error:
            raise InvalidArgument(f"runtime options on stdin: {error}") from None

    def answer(self, address: str) -> bytes:
        """What `start` prints: where the shim listens."""
        if self._params is not None:
            from cutaway.pb.bootstrap_pb2 import BootstrapResult

            result = BootstrapResult(version=_VERSION, address=address, protocol=_PROTOCOL)
            return result.SerializeToString()
        if _max_version() >= _VERSION:
            import json

            return json.dumps({"version": _VERSION, "address": address, "protocol": _PROTOCOL}).encode()
        return address.encode()


def _params(given: bytes, id: str, namespace: str) -> "BootstrapParams | None":
    """The message of a containerd that sends one.

    Options in an Any look alike: two strings. In an Any the first is a type, and not this container's id.
    """
    start = id.encode()
    if not given.startswith(b"\n") or start not in given:
        return None
    from google.protobuf.message import DecodeError

    from cutaway.pb.bootstrap_pb2 import BootstrapParams

    try:
        params = BootstrapParams.FromString(given)
    except DecodeError:
        return None
    return params if (params.instance_id, params.namespace) == (id, namespace) else None


def _complete(arguments: "Arguments", params: "BootstrapParams") -> None:
    """Flags and environment win; a containerd that has dropped them says the same in its message."""
    for name, value in (
        ("address", params.containerd_grpc_address),
        ("publish-binary", params.containerd_binary),
    ):
        if not arguments[name]:
            arguments.values[name] = value
    if params.log_level <= _DEBUG:
        arguments.switches.add("debug")
    if params.containerd_ttrpc_address and not os.environ.get(_EVENTS):
        os.environ[_EVENTS] = params.containerd_ttrpc_address


def _max_version() -> int:
    """What the caller says it understands; 2 when it does not say."""
    try:
        return int(os.environ.get(_MAX_VERSION, ""))
    except ValueError:
        return 2
