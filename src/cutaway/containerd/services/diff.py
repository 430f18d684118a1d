"""containerd.services.diff.v1.Diff: layers into snapshots, and what differs between two as a layer."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from cutaway.containerd.app import App
from cutaway.containerd.mounts import Mount, mounted, read_only
from cutaway.containerd.pack.changes import changes
from cutaway.containerd.pack.compress import OCI, Packed, compressor, pack
from cutaway.containerd.pack.tar import layer
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import from_mount
from cutaway.containerd.unpack.onto import unpack_onto
from cutaway.containerd.unpack.paths import DIRECTORY
from cutaway.errors import AlreadyExists, CutawayError, NotFound
from cutaway.faults import point
from cutaway.pb import diff_pb2 as pb
from cutaway.pb.descriptor_pb2 import Descriptor
from cutaway.trace import spans

# On a layer's blob: the digest of what comes out when it is decompressed.
UNCOMPRESSED = "containerd.io/uncompressed"


class Diff(Service):
    file = pb.DESCRIPTOR
    name = "Diff"

    def __init__(self, app: App) -> None:
        self._app = app

    async def apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        digest = request.diff.digest
        mounts = [from_mount(one) for one in request.mounts]
        try:
            fd, blob = await self._app.content.open(call.namespace, digest)
        except NotFound as error:
            raise NotFound(f"failed to get reader from content store: {error}") from None
        try:
            with spans.span("unpack", digest=digest, compressed=blob.size) as span:
                done = await self._app.workers.finish(
                    unpack_onto, fd, mounts, self._app.config.mounts_root, sync=request.sync_fs
                )
                span.set(diff_id=done.diff_id, size=done.size, entries=done.entries)
        except CutawayError as error:
            raise type(error)(f"failed to extract layer {digest}: {error}") from None
        finally:
            os.close(fd)
        return pb.ApplyResponse(applied=Descriptor(media_type=OCI, digest=done.diff_id, size=done.size))

    async def diff(self, request: pb.DiffRequest, call: Call) -> pb.DiffResponse:
        media_type = request.media_type or f"{OCI}+gzip"
        compressor(media_type)  # before anything is done for a type that is not known
        old, new = ([from_mount(one) for one in side] for side in (request.left, request.right))
        with tempfile.TemporaryFile(dir=self._app.config.content_root) as file:
            with spans.span("pack", media_type=media_type) as span:
                made = await self._app.workers.finish(self._pack, old, new, media_type, file.fileno())
                span.set(diff_id=made.diff_id, digest=made.digest, size=made.size)
            point("containerd.diff.packed")
            ref = request.ref or f"diff-{uuid.uuid4()}"
            labels = dict(request.labels)
            if made.digest != made.diff_id:
                labels[UNCOMPRESSED] = made.diff_id
            store, namespace = self._app.content, call.namespace
            try:
                async with store.write(namespace, ref, made.size, made.digest, call.lease) as session:
                    await session.take(file.fileno(), made.size)
                    await session.commit(made.size, made.digest, labels)
            except AlreadyExists:
                paths = [f"labels.{key}" for key in labels]
                await store.update(namespace, made.digest, labels, paths)
        return pb.DiffResponse(diff=Descriptor(media_type=media_type, digest=made.digest, size=made.size))

    def _pack(self, old: Sequence[Mount], new: Sequence[Mount], media_type: str, fd: int) -> Packed:
        """Compare two trees, neither of which is written to meanwhile by us."""
        folder = self._app.config.mounts_root
        with ExitStack() as held:
            left = _opened(held, [read_only(one) for one in old], folder) if old else None
            right = _opened(held, [read_only(one) for one in new], folder)
            # Closed before the mounts are: in the middle of a file it has that open.
            parts = held.enter_context(closing(layer(right, changes(left, right))))
            return pack(parts, media_type, fd)


def _opened(held: ExitStack, mounts: Sequence[Mount], folder: Path) -> int:
    root = held.enter_context(mounted(mounts, folder))
    fd = os.open(root, DIRECTORY)
    held.callback(os.close, fd)
    return fd
