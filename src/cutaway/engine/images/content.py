"""containerd's content store over seam 3: blobs by digest, written as they stream in."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask

from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient, Conversation, EndedEarly
from cutaway.oci import document
from cutaway.oci.image_spec import Descriptor
from cutaway.pb import content_pb2 as pb
from cutaway.pb.service import methods

D = TypeVar("D", bound=document.Document)

MAX_DOCUMENT: Final = 8 << 20  # bytes of a manifest or configuration that is read into memory
CACHED: Final = 512  # documents kept
DISCARD_SECONDS: Final = 3.0  # to clean up after a failed write
LOCKED_SECONDS: Final = 0.05  # between two tries
WINDOW: Final = 4  # pieces under way to containerd at a time
RETRIED: Final = 1 << 20  # bytes

_CONTENT: Final = methods(pb.DESCRIPTOR, "Content")


class ContentStore:
    """Blobs by digest. Documents once read are kept in memory: what a digest names never changes."""

    def __init__(self, client: ContainerdClient) -> None:
        self._client = client
        self._documents: OrderedDict[tuple[str, type[document.Document]], document.Document] = OrderedDict()

    async def info(self, digest: str) -> pb.Info | None:
        """What is known of a blob, or None if it is not there."""
        try:
            reply: pb.InfoResponse = await self._client.call(_CONTENT["Info"], pb.InfoRequest(digest=digest))
        except errors.NotFound:
            return None
        return reply.info

    async def read(self, digest: str, limit: int = MAX_DOCUMENT) -> bytes:
        """A whole blob; `NotFound` without it, `ResourceExhausted` beyond `limit` bytes."""
        data = bytearray()
        async with aclosing(self.stream(digest)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > limit:
                    raise errors.ResourceExhausted(f"{digest} is larger than {limit} bytes")
        return bytes(data)

    async def stream(self, digest: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """A blob's bytes from an offset on; `NotFound` without it."""
        request = pb.ReadContentRequest(digest=digest, offset=offset)
        async with aclosing(self._client.stream(_CONTENT["Read"], request)) as replies:
            async for reply in replies:
                yield reply.data

    async def document(self, kind: type[D], digest: str) -> D:
        """A blob as a typed document."""
        key = (digest, kind)
        found = self._documents.get(key)
        if found is None:
            found = document.loads(kind, await self.read(digest), digest)
            self._documents[key] = found
            if len(self._documents) > CACHED:
                self._documents.popitem(last=False)
        self._documents.move_to_end(key)
        assert isinstance(found, kind)
        return found

    async def write(
        self,
        descriptor: Descriptor,
        pieces: Callable[[], AsyncIterator[bytes]],
        *,
        lease: str,
        labels: Mapping[str, str],
        wrote: Callable[[int], None] = lambda total: None,
    ) -> bool:
        """Store a blob from a stream of pieces; return whether it was new.

        `pieces` is called only if the blob is not there yet, `wrote` after each piece with the bytes so
        far. The blob exists once the stream has ended and containerd, too, finds the digest right;
        after a failure nothing of it is left. Either way the lease holds it. Raises `DataLoss` for one
        that is there in another size than the descriptor says.
        """
        ref = f"cutaway-{descriptor.digest}"
        try:
            if not await self._write(descriptor, ref, pieces, lease, labels, wrote):
                # Left by an engine that died in the middle; its bytes have not been digested by us.
                await self._abort(ref)
                ref = f"{ref}-{secrets.token_hex(4)}"  # the old one is locked until containerd notices
                await self._write(descriptor, ref, pieces, lease, labels, wrote)
        except errors.AlreadyExists:
            info = await self.info(descriptor.digest)
            if info and info.size != descriptor.size:
                raise errors.DataLoss(
                    f"blob {descriptor.digest} has {info.size} bytes, expected {descriptor.size}"
                ) from None
            return False
        return True

    async def _write(
        self,
        descriptor: Descriptor,
        ref: str,
        pieces: Callable[[], AsyncIterator[bytes]],
        lease: str,
        labels: Mapping[str, str],
        wrote: Callable[[int], None],
    ) -> bool:
        """Store a blob; False if an unfinished one of this ref is in the way."""
        opening = pb.WriteContentRequest(
            action=pb.STAT, ref=ref, total=descriptor.size, expected=descriptor.digest
        )
        async with self._client.bidi(_CONTENT["Write"], lease=lease) as writing:
            try:
                status: pb.WriteContentResponse = await writing.ask(opening)
            except asyncio.CancelledError:
                await asyncio.shield(self._discard(writing, ref))
                raise
            # All of it at once: another namespace has the blob. containerd digests it when we commit.
            whole = status.offset == descriptor.size > 0
            if status.offset and not whole:
                await _drain(writing)
                return False
            try:
                if not whole:
                    await _send(writing, pieces(), wrote)
                await _commit(writing, descriptor, ref, labels)
            except EndedEarly:
                try:
                    await self._say_why(writing, opening, lease)
                finally:
                    await asyncio.shield(self._discard(writing, ref))
                raise
            except BaseException:
                await asyncio.shield(self._discard(writing, ref))
                raise
        return True

    async def _say_why(self, writing: Conversation, opening: pb.WriteContentRequest, lease: str) -> None:
        """Have containerd say once more why it ended a write: send it so little that it can answer.

        Raises what it says.
        """
        with suppress(errors.CutawayError, TimeoutError):
            await asyncio.wait_for(_drain(writing), DISCARD_SECONDS)
        async with self._client.bidi(_CONTENT["Write"], lease=lease) as again:
            status: pb.WriteContentResponse = await again.ask(opening)
            some = bytes(min(RETRIED, opening.total - status.offset))
            await again.ask(pb.WriteContentRequest(action=pb.WRITE, offset=status.offset, data=some))
            await _drain(again)

    async def _discard(self, writing: Conversation, ref: str) -> None:
        """End a write in good order, which gives its ref free, and remove what it has left."""
        with suppress(errors.CutawayError, TimeoutError):  # it may be what has failed
            await asyncio.wait_for(_drain(writing), DISCARD_SECONDS)
        await self._abort(ref)

    async def _abort(self, ref: str) -> None:
        """Remove an unfinished write; one that was cancelled may be locked or written to a moment longer."""
        deadline = time.monotonic() + DISCARD_SECONDS
        while True:
            try:
                await self._client.call(_CONTENT["Abort"], pb.AbortRequest(ref=ref))
            except errors.NotFound:
                pass
            except (errors.Unavailable, errors.Unknown):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(LOCKED_SECONDS)
                continue
            return

    async def set_labels(self, digest: str, labels: Mapping[str, str]) -> None:
        """Set labels of a blob, leaving its others as they are; an empty value removes one."""
        request = pb.UpdateRequest(
            info=pb.Info(digest=digest, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        await self._client.call(_CONTENT["Update"], request)

    async def note_source(self, digest: str, label: str, path: str) -> None:
        """Add a repository to the list of those that a blob is known to be in, which a label holds."""
        info = await self.info(digest)
        known = [entry for entry in info.labels.get(label, "").split(",") if entry] if info else []
        if info and path not in known:
            await self.set_labels(digest, {label: ",".join([*known, path])})


async def _send(writing: Conversation, pieces: AsyncIterator[bytes], wrote: Callable[[int], None]) -> None:
    """Send every piece, some ahead of their acknowledgements."""
    total, unanswered = 0, 0
    async for piece in pieces:
        await writing.send(pb.WriteContentRequest(action=pb.WRITE, offset=total, data=piece))
        total += len(piece)
        unanswered += 1
        if unanswered > WINDOW:
            await _acknowledged(writing)
            unanswered -= 1
        wrote(total)
    for _ in range(unanswered):
        await _acknowledged(writing)


async def _acknowledged(writing: Conversation) -> None:
    if await writing.receive() is None:
        raise errors.Unknown("containerd ended a write too early")


async def _commit(writing: Conversation, descriptor: Descriptor, ref: str, labels: Mapping[str, str]) -> None:
    await writing.ask(
        pb.WriteContentRequest(
            action=pb.COMMIT,
            ref=ref,
            total=descriptor.size,
            offset=descriptor.size,
            expected=descriptor.digest,
            labels=labels,
        )
    )
    await _drain(writing)


async def _drain(writing: Conversation) -> None:
    """Say that no more comes and wait for the peer's end: leaving earlier would look like a failure."""
    await writing.done()
    while await writing.receive() is not None:
        pass
