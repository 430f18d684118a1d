"""containerd.services.diff.v1.Diff: layers into snapshots."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from cutaway.containerd.app import App
from cutaway.containerd.mounts import Mount, mounted
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.convert import from_mount
from cutaway.containerd.unpack.apply import Applied, apply
from cutaway.errors import CutawayError, InvalidArgument
from cutaway.pb import diff_pb2 as pb
from cutaway.pb.descriptor_pb2 import Descriptor
from cutaway.trace import spans

LAYER = "application/vnd.oci.image.layer.v1.tar"

_libc = ctypes.CDLL(None, use_errno=True)


class Diff(Service):
    file = pb.DESCRIPTOR
    name = "Diff"

    def __init__(self, app: App) -> None:
        self._app = app

    async def apply(self, request: pb.ApplyRequest, call: Call) -> pb.ApplyResponse:
        digest = request.diff.digest
        mounts = [from_mount(one) for one in request.mounts]
        fd, blob = await self._app.content.open(call.namespace, digest)
        try:
            with spans.span("unpack", digest=digest, compressed=blob.size) as span:
                done = await self._app.workers.finish(self._unpack, fd, mounts, request.sync_fs)
                span.set(diff_id=done.diff_id, size=done.size, entries=done.entries)
        except CutawayError as error:
            raise type(error)(f"failed to extract layer {digest}: {error}") from None
        finally:
            os.close(fd)
        return pb.ApplyResponse(applied=Descriptor(media_type=LAYER, digest=done.diff_id, size=done.size))

    def _unpack(self, fd: int, mounts: Sequence[Mount], sync: bool) -> Applied:
        """Where the mounts show a plain directory in the end, that is written to, and nothing is mounted."""
        if len(mounts) == 1:
            only = mounts[0]
            upper, lowers = only.option("upperdir"), only.option("lowerdir")
            if only.type == "overlay" and upper:
                below = [Path(one) for one in lowers.split(":") if one]
                return _apply(fd, Path(upper), below, overlay=True, sync=sync)
            if only.type == "bind" and "ro" not in only.options:
                return _apply(fd, Path(only.source), (), overlay=False, sync=sync)
        if not mounts:
            raise InvalidArgument("a layer needs a mount to be unpacked into: invalid argument")
        with mounted(mounts, self._app.config.state / "mounts") as target:
            return _apply(fd, target, (), overlay=False, sync=sync)


def _apply(fd: int, root: Path, lowers: Sequence[Path], *, overlay: bool, sync: bool) -> Applied:
    done = apply(fd, root, lowers, overlay=overlay)
    if sync:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(folder) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(root))
        finally:
            os.close(folder)
    return done
