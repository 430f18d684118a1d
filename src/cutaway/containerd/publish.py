"""`cutaway-containerd --address SOCKET publish --namespace N --topic T`, with an Any on standard input.

For shims that cannot reach the daemon's ttrpc socket: they run the program they were given by
`-publish-binary` once for each event. Source: `containerd publish --help`.
"""

from __future__ import annotations

import argparse
import sys

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from cutaway.containerd.config import DEFAULT_ADDRESS
from cutaway.errors import InvalidArgument, Unavailable, Unknown
from cutaway.pb import events_pb2
from cutaway.pb.service import methods

COMMAND = "publish"

# How long a daemon may take, in seconds, which a shim waits for.
SECONDS = 5.0


def asked_for(argv: list[str]) -> bool:
    """Whether a command line of the daemon is for us: it has `publish`, and not as the value of a flag."""
    if COMMAND not in argv:
        return False
    before = argv[: argv.index(COMMAND)][-1:]
    return not before or not before[0].startswith("-") or "=" in before[0]


def main(argv: list[str]) -> int:
    """Publish one event. Raises `InvalidArgument`, `Unavailable`, or `Unknown` with what the daemon said."""
    flags = parser().parse_args(argv)
    if not flags.topic:
        raise InvalidArgument("topic required to publish event: give --topic")
    try:
        event = Any.FromString(sys.stdin.buffer.read())
    except DecodeError:
        raise InvalidArgument("standard input holds no event (a serialized google.protobuf.Any)") from None
    publish(flags.address, flags.namespace, events_pb2.PublishRequest(topic=flags.topic, event=event))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="cutaway-containerd", allow_abbrev=False)
    found.add_argument("-a", "--address", default=DEFAULT_ADDRESS)
    command = found.add_subparsers(required=True).add_parser(COMMAND, allow_abbrev=False)
    command.add_argument("--namespace", default="", help="namespace to publish to")
    command.add_argument("--topic", default="", help="topic of the event")
    return found


def publish(address: str, namespace: str, request: events_pb2.PublishRequest) -> None:
    """Hand an event to a daemon. Raises `Unavailable`, or `Unknown` with what it said."""
    import grpc

    method = methods(events_pb2.DESCRIPTOR, "Events")["Publish"]
    with grpc.insecure_channel(f"unix:{address.removeprefix('unix://')}") as channel:
        call = channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            call(request, metadata=(("containerd-namespace", namespace),), timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Unavailable(f"no daemon answers on {address}: is cutaway-containerd running?") from None
            raise Unknown(error.details() or error.code().name) from None
