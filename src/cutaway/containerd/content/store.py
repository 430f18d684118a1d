"""The content store: what is on disk and what a namespace may see of it, together.

Everything that makes a file a blob, or takes one away, happens in the transaction that records it, on
the one thread that writes metadata. So a blob's file and its records cannot be seen apart, except by a
crash between the two, which leaves a file that no record names: `repair` removes it at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from cutaway.containerd import filters, names
from cutaway.containerd.content.files import Files
from cutaway.containerd.content.locks import RefLocks
from cutaway.containerd.content.writer import EMPTY, Writer
from cutaway.containerd.metadata import blobs, leases
from cutaway.containerd.metadata.blobs import Blob, Ingest
from cutaway.containerd.metadata.database import Database, Transaction
from cutaway.containerd.metadata.values import now
from cutaway.containerd.workers import Workers
from cutaway.errors import AlreadyExists, FailedPrecondition, NotFound, OutOfRange, Unavailable, Unknown

log = logging.getLogger("containerd.content")

READ_CHUNK = 1 << 20

# Below this many bytes, handing work to a thread costs more than the work.
_INLINE = 32 << 10


class ContentStore:
    """Belongs to the event loop's thread."""

    def __init__(self, files: Files, db: Database, workers: Workers) -> None:
        self.files = files
        self._db = db
        self._workers = workers
        self._locks = RefLocks()

    async def info(self, namespace: str, digest: str) -> Blob:
        """Raises `InvalidArgument`, `NotFound`."""
        names.validate_digest(digest)
        return self._db.look_up(blobs.get, namespace, digest)

    async def find(self, namespace: str, wanted: filters.Filter) -> list[Blob]:
        return await self._db.read(blobs.find, namespace, wanted)

    async def update(
        self, namespace: str, digest: str, labels: Mapping[str, str], paths: Sequence[str]
    ) -> Blob:
        """Raises `InvalidArgument`, `NotFound`."""
        names.validate_digest(digest)
        return await self._db.write(blobs.update, namespace, digest, labels, paths)

    async def delete(self, namespace: str, digest: str, lease: str = "") -> None:
        """Take a blob out of a namespace; the last one takes the file with it. Raises `NotFound`."""
        names.validate_digest(digest)
        await self._db.write_durably(blobs.delete, namespace, digest, lease)
        await self.sweep([digest])

    async def sweep(self, digests: Sequence[str]) -> None:
        """Remove the files of blobs that nobody records any more, which must be on the disk by now."""
        await self._db.release(self._sweep, digests)

    def _sweep(self, tx: Transaction, digests: Sequence[str]) -> None:
        for digest in digests:
            if not blobs.is_used(tx, digest):
                self.files.remove(digest)

    async def drop(self, folders: Sequence[str]) -> None:
        """Remove the directories of ingests that are recorded no more."""
        await self._db.release(self._drop, folders)

    def _drop(self, tx: Transaction, folders: Sequence[str]) -> None:
        for folder in folders:
            # A client may have begun anew with the same ref in the meantime.
            if not tx.execute("SELECT 1 FROM ingests WHERE folder = ?", (folder,)).fetchone():
                self.files.drop(folder)

    def is_being_written(self, namespace: str, ref: str) -> bool:
        """Whether a client is at it right now. May be asked from any thread."""
        return self._locks.is_held(namespace, ref)

    async def open(self, namespace: str, digest: str) -> tuple[int, Blob]:
        """A descriptor to read a blob from, which the caller closes. Raises `NotFound`."""
        blob = await self.info(namespace, digest)
        return self.files.open_blob(digest), blob

    async def read(self, namespace: str, digest: str, offset: int, size: int) -> AsyncIterator[bytes]:
        """A part of a blob in chunks; size 0 for all that follows. Raises `NotFound`, `OutOfRange`."""
        fd, blob = await self.open(namespace, digest)
        try:
            at = max(0, offset)
            if at > blob.size:
                raise OutOfRange(f"read past object length {blob.size} bytes")
            end = min(blob.size, at + size) if size > 0 else blob.size
            while at < end:
                length = min(READ_CHUNK, end - at)
                inline = length <= _INLINE
                data = (
                    os.pread(fd, length, at)
                    if inline
                    else await self._workers.finish(os.pread, fd, length, at)
                )
                if not data:
                    raise Unavailable(f"content {digest} ends at {at} of {blob.size} bytes: unavailable")
                yield data
                at += len(data)
        finally:
            os.close(fd)

    async def status(self, namespace: str, ref: str) -> tuple[Ingest, int]:
        """An ingest and how many bytes of it are there. Raises `NotFound`."""
        return self._measured(self._db.look_up(blobs.ingest, namespace, ref))

    async def statuses(self, namespace: str, wanted: filters.Filter) -> list[tuple[Ingest, int]]:
        found = await self._db.read(blobs.ingests, namespace)
        return [
            self._measured(one)
            for one in found
            if wanted.matches(lambda path, one=one: one.ref if path[0] == "ref" else None)  # type: ignore[misc]
        ]

    def _measured(self, ingest: Ingest) -> tuple[Ingest, int]:
        if ingest.shared:
            return ingest, self.files.size(ingest.shared) or 0
        try:
            found = os.stat(self.files.data(ingest.folder))
        except FileNotFoundError:
            return ingest, 0
        return replace(ingest, updated=found.st_mtime_ns), found.st_size

    async def abort(self, namespace: str, ref: str, lease: str = "") -> None:
        """Throw an ingest away; somebody who is writing it will not be able to commit. Raises `NotFound`."""
        await self._db.release(self._abort, namespace, ref, lease)

    def _abort(self, tx: Transaction, namespace: str, ref: str, lease: str) -> None:
        ingest = blobs.ingest(tx, namespace, ref)
        # The bytes go first: they may be why the disk is full, and records need room too.
        self.files.drop(ingest.folder)
        blobs.end(tx, namespace, ref, lease)

    @asynccontextmanager
    async def write(
        self, namespace: str, ref: str, total: int, expected: str, lease: str = ""
    ) -> AsyncIterator[Session]:
        """Write the blob of a ref, alone. What is there of it stays for the next time unless committed.

        Raises `AlreadyExists` when the namespace has the expected blob, `Unavailable` while somebody
        else writes, `NotFound` for the lease, `InvalidArgument` for the digest.
        """
        if expected:
            names.validate_digest(expected)
        async with self._locks.hold(namespace, ref):
            folder = self.files.folder_of(namespace, ref)
            started = now()
            wanted = Ingest(namespace, ref, folder, total, "", started, started)
            begun = await self._db.write(self._begin, wanted, expected, lease)
            if begun is None:
                raise AlreadyExists(f"content {expected}: already exists")
            session = Session(self, begun, lease)
            try:
                await session.open()
                yield session
            finally:
                session.close()

    def _begin(self, tx: Transaction, wanted: Ingest, expected: str, lease: str) -> Ingest | None:
        """None when the namespace has the blob; its lease holds it then."""
        if expected and blobs.has(tx, wanted.namespace, expected):
            leases.hold(tx, wanted.namespace, lease, leases.CONTENT, expected)
            return None
        if wanted.total and blobs.total(tx, wanted.namespace, wanted.ref) not in (0, wanted.total):
            # Another size is another blob: what was written under the ref is of no use for it.
            self._abort(tx, wanted.namespace, wanted.ref, lease)
        there = blobs.size_anywhere(tx, expected) if expected else None
        if there is not None and wanted.total in (0, there):
            wanted = replace(wanted, shared=expected, total=there)
        return blobs.begin(tx, wanted, lease)

    # What a session needs of the store.

    @property
    def workers(self) -> Workers:
        return self._workers

    async def commit(
        self, ingest: Ingest, digest: str, size: int, labels: Mapping[str, str], lease: str
    ) -> Blob:
        """Record what was written, and make its file a blob.

        Raises `AlreadyExists`, and `Unknown` when the ingest was aborted meanwhile.
        """
        names.validate_labels(labels, "info.Labels")
        blob = await self._db.write(self._commit, ingest, digest, size, labels, lease)
        await self._workers.run(self.files.drop, ingest.folder)
        if blob is None:
            raise AlreadyExists(f"content {digest}: already exists")
        return blob

    def _commit(
        self, tx: Transaction, ingest: Ingest, digest: str, size: int, labels: Mapping[str, str], lease: str
    ) -> Blob | None:
        blob = None
        if not blobs.is_begun(tx, ingest.namespace, ingest.ref):
            # Its bytes may have gone with it, or, where they are another namespace's, go at any time.
            raise Unknown(f'cannot commit on ref "{ingest.ref}": it was aborted: no such file or directory')
        if not blobs.has(tx, ingest.namespace, digest):
            if not ingest.shared:
                self.files.keep(ingest.folder, digest)
            blob = blobs.add(tx, ingest.namespace, digest, size, labels)
        blobs.end(tx, ingest.namespace, ingest.ref, lease)
        leases.hold(tx, ingest.namespace, lease, leases.CONTENT, digest)
        return blob

    async def forget(self, ingest: Ingest, lease: str) -> None:
        """Throw away what the caller, who holds the ref, was writing, unless that was done."""
        with contextlib.suppress(NotFound):
            await self.abort(ingest.namespace, ingest.ref, lease)

    async def unshare(self, ingest: Ingest) -> Ingest:
        """Write the bytes after all, instead of taking over those that another namespace has."""

        def clear(tx: Transaction) -> None:
            tx.execute("UPDATE ingests SET shared = '' WHERE folder = ?", (ingest.folder,))

        await self._db.write(clear)
        return replace(ingest, shared="")


class Session:
    """The writing of one blob, from opening to commit."""

    def __init__(self, store: ContentStore, ingest: Ingest, lease: str) -> None:
        self._store = store
        self.ingest = ingest
        self._lease = lease
        self._writer: Writer | None = None

    async def open(self) -> None:
        if not self.ingest.shared:
            self._writer = await self._store.workers.finish(Writer, self._store.files, self.ingest)

    @property
    def offset(self) -> int:
        return self._writer.offset if self._writer else self.ingest.total

    @property
    def digest(self) -> str:
        if self._writer:
            return self._writer.digest
        return self.ingest.shared or EMPTY

    @property
    def updated(self) -> int:
        return self._writer.updated if self._writer else self.ingest.updated

    async def write(self, data: bytes) -> None:
        writer = self._writer or await self._own_copy(self.ingest.total)
        if len(data) <= _INLINE:
            writer.write(data)
        else:
            await self._store.workers.finish(writer.write, data)

    async def take(self, source: int, size: int) -> None:
        """Write what a file has, from its beginning, unless it is known."""
        if self._writer:
            await self._store.workers.finish(self._writer.truncate)
            await self._store.workers.finish(self._writer.copy_from, source, size)

    async def truncate(self) -> None:
        writer = self._writer or await self._own_copy(0)
        await self._store.workers.finish(writer.truncate)

    async def _own_copy(self, size: int) -> Writer:
        shared = self.ingest.shared
        self.ingest = await self._store.unshare(self.ingest)
        await self.open()
        assert self._writer
        if size:
            source = self._store.files.open_blob(shared)
            try:
                await self._store.workers.finish(self._writer.copy_from, source, size)
            finally:
                os.close(source)
        return self._writer

    async def commit(self, size: int, expected: str, labels: Mapping[str, str]) -> Blob:
        """Raises `FailedPrecondition` for a size or digest that does not fit, `AlreadyExists`."""
        ref = self.ingest.ref
        if size and size != self.offset:
            raise FailedPrecondition(
                f'"{ref}" failed size validation: {self.offset} != {size}: failed precondition'
            )
        digest = self.digest
        if expected and expected != digest:
            raise FailedPrecondition(
                f"unexpected commit digest {digest}, expected {expected}: failed precondition"
            )
        if self._writer:
            await self._store.workers.finish(self._writer.sync)
        commit = self._store.commit(self.ingest, digest, self.offset, labels, self._lease)
        return await asyncio.shield(asyncio.ensure_future(commit))

    async def abort(self) -> None:
        self.close()
        await self._store.forget(self.ingest, self._lease)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


def repair(files: Files, db: Database) -> None:
    """After a crash: no record without its bytes, no bytes without a record."""
    lost = db.read_now(_lost, files)
    if lost:
        log.warning("content is missing or has another size, its records are removed: %s", ", ".join(lost))
    db.write_now(_forget, lost)
    kept, folders = db.read_now(_recorded)
    for digest in files.all_blobs():
        if digest not in kept:
            log.info("removing %s, which nothing records", digest)
            files.remove(digest)
    for folder in files.all_ingests():
        if folder not in folders:
            files.drop(folder)


def _lost(tx: Transaction, files: Files) -> list[str]:
    rows = tx.execute("SELECT DISTINCT digest, size FROM blobs")
    return [digest for digest, size in rows if files.size(digest) != size]


def _forget(tx: Transaction, digests: Sequence[str]) -> None:
    for digest in digests:
        tx.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        tx.execute("DELETE FROM ingests WHERE shared = ?", (digest,))


def _recorded(tx: Transaction) -> tuple[set[str], set[str]]:
    digests = {row[0] for row in tx.execute("SELECT digest FROM blobs")}
    shared = {row[0] for row in tx.execute("SELECT shared FROM ingests WHERE shared != ''")}
    return digests | shared, {row[0] for row in tx.execute("SELECT folder FROM ingests")}
