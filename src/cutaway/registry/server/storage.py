"""The registry's folder: blobs by digest, and what each repository has of them.

    ROOT/blobs/sha256/DIGEST                              the bytes
    ROOT/repositories/NAME/_blobs/sha256-DIGEST           empty: the repository has this blob
    ROOT/repositories/NAME/_manifests/sha256-DIGEST       the manifest's media type
    ROOT/repositories/NAME/_tags/TAG                      the digest it stands for
    ROOT/uploads/ID                                       the bytes of an unfinished upload so far

Every file appears by rename, whole and on disk, so a crash leaves nothing worse than an unused blob or an
upload to resume. A path component of a name never begins with `_`, so names and folders cannot clash.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cutaway.registry.reference import is_digest, is_path, is_tag
from cutaway.registry.server import failures

MAX_NAME: Final = 255
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it was pushed."""

    digest: str
    media_type: str
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


class Storage:
    """Blobs, manifests, tags and uploads in one folder. Methods block for as long as the disk does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._uploads = root / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)
        (root / "blobs").mkdir(exist_ok=True)
        (root / "repositories").mkdir(exist_ok=True)

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Where a blob's bytes are or would be; `DIGEST_INVALID` for what is no digest."""
        if not is_digest(digest):
            raise failures.digest_invalid(f"invalid digest: {digest[:255]}")
        algorithm, _, value = digest.partition(":")
        return self.root / "blobs" / algorithm / value

    def blob(self, name: str, digest: str) -> Path:
        """The bytes of a blob that a repository has."""
        path = self.blob_path(digest)
        if not self._link(name, "_blobs", digest).exists() or not path.exists():
            raise failures.blob_unknown(digest)
        return path

    def has_blob(self, name: str, digest: str) -> bool:
        return self._link(name, "_blobs", digest).exists() and self.blob_path(digest).exists()

    def put_blob(self, name: str, data: bytes) -> str:
        """Store a small blob for a repository; return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self.blob_path(digest)
        if not path.exists():
            self._write(path, data)
        self.link_blob(name, digest)
        return digest

    def link_blob(self, name: str, digest: str) -> None:
        """Let a repository have a blob that is stored."""
        self._write(self._link(name, "_blobs", digest), b"")

    def unlink_blob(self, name: str, digest: str) -> None:
        """Take a blob from a repository; its bytes stay for the others that have it."""
        self.blob(name, digest)
        self._link(name, "_blobs", digest).unlink()

    # Manifests and tags

    def manifest(self, name: str, reference: str) -> StoredManifest:
        """A manifest by tag or digest."""
        digest = reference if is_digest(reference) else self._tagged(name, reference)
        link = self._link(name, "_manifests", digest)
        path = self.blob_path(digest)
        try:
            return StoredManifest(digest, link.read_text(), path)
        except FileNotFoundError:
            raise failures.manifest_unknown(reference) from None

    def has_manifest(self, name: str, digest: str) -> bool:
        return self._link(name, "_manifests", digest).exists()

    def put_manifest(self, name: str, data: bytes, media_type: str, digest: str, tag: str = "") -> None:
        """Store a manifest whose digest has been checked, and let a tag stand for it."""
        path = self.blob_path(digest)
        if not path.exists():
            self._write(path, data)
        self._write(self._link(name, "_manifests", digest), media_type.encode())
        if tag:
            self._write(self._repository(name) / "_tags" / tag, digest.encode())

    def delete_manifest(self, name: str, reference: str) -> None:
        """Remove a tag, or a manifest with all its tags."""
        stored = self.manifest(name, reference)
        folder = self._repository(name) / "_tags"
        if not is_digest(reference):
            (folder / reference).unlink()
            return
        for tag in self.tags(name):
            if (folder / tag).read_text() == stored.digest:
                (folder / tag).unlink()
        self._link(name, "_manifests", stored.digest).unlink()

    def manifests(self, name: str) -> Iterator[StoredManifest]:
        """Every manifest of a repository."""
        for link in sorted((self._repository(name) / "_manifests").glob("*-*")):
            digest = link.name.replace("-", ":", 1)
            yield StoredManifest(digest, link.read_text(), self.blob_path(digest))

    def tags(self, name: str) -> list[str]:
        """The tags of a repository, in order; `NAME_UNKNOWN` if there is no such repository."""
        repository = self._repository(name)
        if not repository.is_dir():
            raise failures.name_unknown(name)
        return sorted(path.name for path in (repository / "_tags").glob("*") if is_tag(path.name))

    def repositories(self) -> list[str]:
        """The names of all repositories that have a manifest."""
        top = self.root / "repositories"
        found = (Path(folder) for folder, names, _ in os.walk(top) if "_manifests" in names)
        return sorted(os.fspath(path.relative_to(top)) for path in found)

    def _tagged(self, name: str, tag: str) -> str:
        if not is_tag(tag):
            raise failures.tag_invalid(tag)
        try:
            return (self._repository(name) / "_tags" / tag).read_text()
        except FileNotFoundError:
            raise failures.manifest_unknown(tag) from None

    def _repository(self, name: str) -> Path:
        if not is_path(name) or len(name) > MAX_NAME:
            raise failures.name_invalid(name)
        return self.root / "repositories" / name

    def _link(self, name: str, kind: str, digest: str) -> Path:
        self.blob_path(digest)
        return self._repository(name) / kind / digest.replace(":", "-", 1)

    # Uploads

    def start_upload(self, name: str) -> str:
        """Begin an upload to a repository; return its ID."""
        self._repository(name)
        upload = secrets.token_hex(16)
        self.upload_path(upload, new=True).touch(mode=0o600)
        return upload

    def upload_path(self, upload: str, *, new: bool = False) -> Path:
        """The file of an upload; `BLOB_UPLOAD_UNKNOWN` without one."""
        if len(upload) != 32 or not all(c in "0123456789abcdef" for c in upload):
            raise failures.upload_unknown(upload)
        path = self._uploads / upload
        if not new and not path.exists():
            raise failures.upload_unknown(upload)
        return path

    def finish_upload(self, name: str, upload: str, digest: str) -> None:
        """Make an upload a blob of a repository; if its digest is another, it is gone, too."""
        source, target = self.upload_path(upload), self.blob_path(digest)
        actual = _digest_of_file(source, digest.partition(":")[0])
        if actual != digest:
            source.unlink()
            raise failures.digest_invalid(f"provided digest did not match uploaded content: got {actual}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.rename(target)
        _sync_folder(target.parent)
        self.link_blob(name, digest)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._uploads / f"new-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _digest_of_file(path: Path, algorithm: str) -> str:
    digester = hashlib.new(algorithm)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digester.update(chunk)
    return f"{algorithm}:{digester.hexdigest()}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
