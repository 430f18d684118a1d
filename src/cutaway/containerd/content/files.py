"""Where content lies on disk.

    content/blobs/sha256/<hex>            complete, read-only; the name is the digest
    content/ingest/<hex>/data             being written; <hex> is the SHA-256 of namespace and ref
    content/ingest/<hex>/ref              namespace and ref, for a person who looks

A file becomes a blob by rename, after its bytes are on the disk. Nothing here knows who may see what.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cutaway.errors import NotFound
from cutaway.faults import point


class Files:
    """The directory of the content store."""

    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.ingests = root / "ingest"
        for folder in (self.blobs / "sha256", self.ingests):
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)

    def blob(self, digest: str) -> Path:
        """The path of a blob, whose digest must have been validated."""
        algorithm, _, value = digest.partition(":")
        return self.blobs / algorithm / value

    def open_blob(self, digest: str) -> int:
        """A descriptor to read from; the caller closes it. Raises `NotFound`."""
        try:
            return os.open(self.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def size(self, digest: str) -> int | None:
        """How many bytes a blob has, or None where there is none."""
        try:
            return os.stat(self.blob(digest)).st_size
        except FileNotFoundError:
            return None

    def remove(self, digest: str) -> None:
        point("containerd.content.before-unlink")
        self.blob(digest).unlink(missing_ok=True)
        point("containerd.content.unlinked")

    def all_blobs(self) -> Iterator[str]:
        """The digests of all files."""
        for algorithm in sorted(os.listdir(self.blobs)):
            for value in os.listdir(self.blobs / algorithm):
                yield f"{algorithm}:{value}"

    def folder_of(self, namespace: str, ref: str) -> str:
        """The name of an ingest's directory."""
        return hashlib.sha256(f"{namespace}/{ref}".encode()).hexdigest()

    def data(self, folder: str) -> Path:
        return self.ingests / folder / "data"

    def open_ingest(self, folder: str, namespace: str, ref: str) -> int:
        """A descriptor to read and write an ingest's bytes, which are there from before or none."""
        path = self.ingests / folder
        path.mkdir(exist_ok=True, mode=0o755)
        point("containerd.content.ingest-made")
        (path / "ref").write_text(f"{namespace}\n{ref}\n")
        return os.open(path / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def keep(self, folder: str, digest: str) -> None:
        """Turn an ingest, written and synced, into a blob."""
        data = self.data(folder)
        os.chmod(data, 0o444)
        point("containerd.content.before-rename")
        os.replace(data, self.blob(digest))
        point("containerd.content.renamed")

    def drop(self, folder: str) -> None:
        """Remove an ingest's directory."""
        point("containerd.content.before-drop")
        shutil.rmtree(self.ingests / folder, ignore_errors=True)
        point("containerd.content.dropped")

    def all_ingests(self) -> list[str]:
        return os.listdir(self.ingests)
