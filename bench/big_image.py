"""Images for pulling: a Python distribution with shared libraries, some 390 MB in 14,000 files.

Made from this machine's own files, the same to the byte as long as those stay. Compressing takes long, so
what comes of it is kept in the temporary directory by the digest of what went in.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from support.images import Image, Layer

FILES, MODULES = 14_000, 13_000
SIZE = 390_000_000
PARTS = 10

_CACHE = Path(tempfile.gettempdir()) / f"cutaway-bench-{os.getuid()}"
_LARGEST = 16_000_000
_LEVEL = 6  # as Docker's and most builders' layers


class PackedLayer(Layer):
    """A layer compressed as builders do, at most once."""

    @cached_property
    def compressed(self) -> bytes:
        kept = _CACHE / f"{self.diff_id.removeprefix('sha256:')}-{_LEVEL}.tar.gz"
        if not kept.exists():
            _CACHE.mkdir(exist_ok=True, mode=0o700)
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(gzip.compress(self.tar, _LEVEL, mtime=0))
            part.replace(kept)
        return kept.read_bytes()


def in_one_layer() -> Image:
    """All of it in one layer."""
    return Image((PackedLayer(_tar(_chosen())),), {"Cmd": ["true"]})


def in_ten_layers() -> tuple[Image, Image]:
    """The same in ten layers, and an image that has another one on top of the lower nine."""
    files = _chosen()
    layers = [PackedLayer(_tar(files[part::PARTS])) for part in range(PARTS)]
    changed = PackedLayer(_tar(files[PARTS - 1 :: PARTS], {"changed": b"in one file\n"}))
    settings = {"Cmd": ["true"]}
    return Image(tuple(layers), settings), Image((*layers[:-1], changed), settings)


def _chosen() -> Sequence[Path]:
    """Files of the standard library and what is installed beside it, then shared libraries."""
    found: list[Path] = []
    size = 0
    modules = _walk(Path(sysconfig.get_path("stdlib", vars={"base": sysconfig.get_config_var("base")})))
    libraries = (one for one in _walk(Path("/usr/lib")) if ".so" in one.name)
    for files, limit in ((modules, MODULES), (libraries, FILES)):
        for file in files:
            if len(found) == limit or size >= SIZE:
                break
            found.append(file)
            size += file.lstat().st_size
    return sorted(found)


def _walk(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size < _LARGEST:
                yield path


def _tar(files: Sequence[Path], more: dict[str, bytes] | None = None) -> bytes:
    buffer, made = io.BytesIO(), set[Path]()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            for folder in (*reversed(file.parents[:-1]),):
                if folder not in made:
                    made.add(folder)
                    archive.addfile(_entry(folder))
            with file.open("rb") as data:
                archive.addfile(_entry(file), data)
        for name, content in (more or {}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _entry(path: Path) -> tarfile.TarInfo:
    found = path.stat()
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    entry.mode, entry.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = found.st_size
    return entry
