"""Small values between protobuf and the daemon's own types, shared by the services."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp

from cutaway.containerd import filters
from cutaway.containerd.metadata.containers import Typed
from cutaway.containerd.metadata.images import Target
from cutaway.containerd.mounts import Mount
from cutaway.errors import InvalidArgument
from cutaway.pb import mount_pb2 as pb_mount
from cutaway.pb.descriptor_pb2 import Descriptor


def record_filter(texts: Iterable[str]) -> filters.Filter:
    """The filter of a list of records, where containerd's errors name their class twice.

    Raises `InvalidArgument`.
    """
    try:
        return filters.parse_all(texts)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error}: invalid argument") from None


def timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def fill_time(message: Timestamp, nanoseconds: int) -> None:
    message.seconds, message.nanos = divmod(nanoseconds, 1_000_000_000)


def fill_any(message: Any, value: Typed) -> None:
    message.type_url, message.value = value.type_url, value.value
    message.SetInParent()  # an empty one is there as well


def to_any(value: Typed | None) -> Any | None:
    return None if value is None else Any(type_url=value.type_url, value=value.value)


def from_any(value: Any) -> Typed:
    return Typed(value.type_url, value.value)


def to_descriptor(target: Target) -> Descriptor:
    return Descriptor(
        media_type=target.media_type, digest=target.digest, size=target.size, annotations=target.annotations
    )


def from_descriptor(descriptor: Descriptor) -> Target:
    return Target(descriptor.media_type, descriptor.digest, descriptor.size, dict(descriptor.annotations))


def to_mount(mount: Mount) -> pb_mount.Mount:
    return pb_mount.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)


def from_mount(message: pb_mount.Mount) -> Mount:
    return Mount(message.type, message.source, tuple(message.options), message.target)
