"""hello-world as an OCI index for linux/amd64 and linux/arm64, the same to the byte wherever it is made.

Nothing in it depends on a clock, a library's version or the machine: the layer's gzip stream stores its
data uncompressed, because what a compressor makes of it is not the same everywhere.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Final

from cutaway.oci.document import dumps
from cutaway.oci.image_spec import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerConfig,
    Descriptor,
    History,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RootFs,
)
from cutaway.registry.hello import elf, machine_code

NAME: Final = "library/hello-world"
TAG: Final = "latest"
PROGRAM: Final = "hello"
CREATED: Final = "2025-01-01T00:00:00Z"
AMD64: Final = Platform(os="linux", architecture="amd64")
ARM64: Final = Platform(os="linux", architecture="arm64", variant="v8")

_STORED_MAX: Final = 0xFFFF  # bytes in one stored block, RFC 1951 section 3.2.4


@dataclass(frozen=True)
class Blob:
    """Bytes and their media type."""

    media_type: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        return _digest(self.data)

    def descriptor(self, platform: Platform | None = None) -> Descriptor:
        return Descriptor(
            media_type=self.media_type, digest=self.digest, size=len(self.data), platform=platform
        )


@dataclass(frozen=True)
class HelloImage:
    """The whole image: manifests to be tagged and the blobs they refer to."""

    index: Blob
    manifests: tuple[Blob, ...]
    blobs: tuple[Blob, ...]


def message(platform: Platform) -> bytes:
    """What the program prints on a platform."""
    text = files("cutaway.registry.hello").joinpath("message.txt").read_text(encoding="utf-8")
    return text.replace("@PLATFORM@", f"{platform.os}/{platform.architecture}").encode()


def program(platform: Platform) -> bytes:
    """The static executable for a platform."""
    text = message(platform)
    assemble, machine = {
        "amd64": (machine_code.x86_64, elf.MACHINE_X86_64),
        "arm64": (machine_code.aarch64, elf.MACHINE_AARCH64),
    }[platform.architecture]
    size = len(assemble(0, len(text)))  # no instruction's length depends on the address
    return elf.executable(machine, assemble(elf.data_address(size), len(text)), text)


def build() -> HelloImage:
    """Make the image."""
    manifests: list[Blob] = []
    blobs: list[Blob] = []
    platforms = (AMD64, ARM64)
    for platform in platforms:
        manifest, parts = _build_one(platform)
        manifests.append(manifest)
        blobs += parts
    index = Index(
        schema_version=2,
        media_type=OCI_INDEX,
        manifests=[blob.descriptor(platform) for blob, platform in zip(manifests, platforms, strict=True)],
    )
    return HelloImage(Blob(OCI_INDEX, dumps(index).encode()), tuple(manifests), tuple(blobs))


def _build_one(platform: Platform) -> tuple[Blob, list[Blob]]:
    archive = _tar(program(platform))
    layer = Blob(OCI_LAYER_GZIP, _gzip_stored(archive))
    document = ImageConfig(
        created=CREATED,
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=ContainerConfig(
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            cmd=[f"/{PROGRAM}"],
            working_dir="/",
        ),
        rootfs=RootFs(type="layers", diff_ids=[_digest(archive)]),
        history=[History(created=CREATED, created_by=f"cutaway-registry: assemble /{PROGRAM}")],
    )
    config = Blob(OCI_CONFIG, dumps(document).encode())
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=config.descriptor(),
        layers=[layer.descriptor()],
    )
    return Blob(OCI_MANIFEST, dumps(manifest).encode()), [config, layer]


def _tar(content: bytes) -> bytes:
    """A tar archive with the program in it, owned by root, from the beginning of time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(PROGRAM)
        entry.size, entry.mode, entry.uname, entry.gname = len(content), 0o755, "root", "root"
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _gzip_stored(data: bytes) -> bytes:
    """A gzip stream (RFC 1952) of stored blocks."""
    stream = bytearray(b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff")
    for start in range(0, len(data), _STORED_MAX):
        block = data[start : start + _STORED_MAX]
        final = start + _STORED_MAX >= len(data)
        stream += struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF) + block
    return bytes(stream + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
