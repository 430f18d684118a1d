"""Checkpoints of tasks: what criu has written as content, and content as what criu reads.

The runtime below the shim saves into a directory and restores from one. A client either names the
directory, which is then its own affair, or gets a tar archive in the content store and gives one back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from cutaway.containerd.pack.changes import changes
from cutaway.containerd.pack.compress import OCI, Packed, pack
from cutaway.containerd.pack.tar import layer
from cutaway.containerd.unpack.apply import apply
from cutaway.containerd.unpack.paths import DIRECTORY
from cutaway.errors import AlreadyExists, InvalidArgument, NotFound, Unknown
from cutaway.pb import runc_options_pb2, shim_pb2
from cutaway.pb.descriptor_pb2 import Descriptor

if TYPE_CHECKING:
    from cutaway.containerd.app import App
    from cutaway.containerd.metadata.containers import Typed
    from cutaway.containerd.server import Call
    from cutaway.containerd.tasks.shim import Shim

SAVED = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
SPEC = "application/vnd.containerd.container.checkpoint.config.v1+proto"

_CHECKPOINT = "containerd.runc.v1.CheckpointOptions"
_CREATE = "containerd.runc.v1.Options"


def own_images(options: Any | None) -> str:
    """The directory that the options of a Create name to restore from, or ""."""
    return _named(options, _CREATE, runc_options_pb2.Options.FromString, "criu_image_path")


async def save(app: App, shim: Shim, options: Any | None, spec: Typed | None, call: Call) -> list[Descriptor]:
    """Save a task; returns its images and its spec as content, nothing when the client names a directory.

    The task goes on or ends as the options say. Raises what the shim answers, and `ResourceExhausted`.
    """
    own = _named(options, _CHECKPOINT, runc_options_pb2.CheckpointOptions.FromString, "image_path")
    if own:
        await _ask(shim, own, options)
        return []
    with tempfile.TemporaryDirectory(prefix="ctd-checkpoint", dir=app.config.state) as folder:
        await _ask(shim, folder, options)
        with tempfile.TemporaryFile(dir=app.config.content_root) as file:
            made = await app.workers.finish(_packed, folder, file.fileno())
            images = await _keep(app, SAVED, folder, file.fileno(), made.size, call)
        with tempfile.TemporaryFile(dir=app.config.content_root) as file:
            data = Any(type_url=spec.type_url, value=spec.value).SerializeToString() if spec else b""
            os.pwrite(file.fileno(), data, 0)
            kept = await _keep(app, SPEC, f"{folder}/spec", file.fileno(), len(data), call)
    return [images, kept]


async def restorable(app: App, namespace: str, checkpoint: Descriptor) -> int:
    """A descriptor of saved images, for `unpack`. The caller closes it.

    Raises `Unknown` for a blob that is not there or of another kind, as containerd.
    """
    if checkpoint.media_type != SAVED:
        raise Unknown(f'unsupported checkpoint type "{checkpoint.media_type}"')
    try:
        fd, _ = await app.content.open(namespace, checkpoint.digest)
    except NotFound as error:
        raise Unknown(str(error)) from None
    return fd


def unpack(fd: int, folder: Path) -> None:
    """Put saved images into a new directory, which only root may read. Blocks. Raises `InvalidArgument`."""
    folder.mkdir(mode=0o700)
    apply(fd, folder, (), overlay=False)


def _named(options: Any | None, kind: str, parse: Callable[[bytes], Message], field: str) -> str:
    if options is None or options.type_url.rpartition("/")[2] != kind:
        return ""
    try:
        return str(getattr(parse(options.value), field))
    except DecodeError as error:
        raise InvalidArgument(f"options of type {kind}: {error}: invalid argument") from None


async def _ask(shim: Shim, folder: str, options: Any | None) -> None:
    await shim.call("Checkpoint", shim_pb2.CheckpointTaskRequest(id=shim.id, path=folder, options=options))


def _packed(folder: str, fd: int) -> Packed:
    root = os.open(folder, DIRECTORY)
    try:
        return pack(layer(root, changes(None, root)), OCI, fd)
    finally:
        os.close(root)


async def _keep(app: App, media_type: str, ref: str, fd: int, size: int, call: Call) -> Descriptor:
    async with app.content.write(call.namespace, ref, 0, "", call.lease) as session:
        await session.take(fd, size)
        digest = session.digest
        with suppress(AlreadyExists):  # the lease holds it all the same
            await session.commit(size, digest, {})
    return Descriptor(media_type=media_type, digest=digest, size=size)
