"""Small images around Debian's static busybox or any other static program, the same to the byte each time.

An image is kept in its OCI form; it can be had as an image layout (a folder or a tar file), as the
archive that `docker load` takes, or in a registry.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from support.peers import peer

OCI: Final = "application/vnd.oci.image."
DOCKER: Final = "application/vnd.docker."
DOCKER_MANIFEST: Final = f"{DOCKER}distribution.manifest.v2+json"
OCI_MANIFEST: Final = f"{OCI}manifest.v1+json"
OCI_INDEX: Final = f"{OCI}index.v1+json"

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

PASSWD: Final = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP: Final = """\
root:x:0:
daemon:x:1:
staff:x:50:daemon
nogroup:x:65534:
"""


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def to_json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Blob:
    """Bytes with what a descriptor says of them."""

    media_type: str
    data: bytes

    @cached_property
    def digest(self) -> str:
        return digest_of(self.data)

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True)
class Layer:
    """A layer as a tar archive; it travels compressed."""

    tar: bytes

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.tar, compresslevel=1, mtime=0)

    @cached_property
    def diff_id(self) -> str:
        return digest_of(self.tar)


@dataclass(frozen=True)
class Image:
    """An image for this machine's architecture: layers, and the `config` object of its configuration."""

    layers: tuple[Layer, ...]
    settings: Mapping[str, object]

    @cached_property
    def config(self) -> bytes:
        """The image's configuration document."""
        return to_json(
            {
                "created": "2024-01-01T00:00:00Z",
                "architecture": ARCHITECTURES[os.uname().machine],
                "os": "linux",
                "config": dict(self.settings),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
                "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "a test"} for _ in self.layers],
            }
        )

    @property
    def id(self) -> str:
        """What docker calls the image's id."""
        return digest_of(self.config)

    def blobs(self, *, docker: bool = False) -> list[Blob]:
        """The configuration, then the layers, typed as OCI or as Docker has it."""
        config_type = f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json"
        layer_type = f"{DOCKER}image.rootfs.diff.tar.gzip" if docker else f"{OCI}layer.v1.tar+gzip"
        return [
            Blob(config_type, self.config),
            *(Blob(layer_type, layer.compressed) for layer in self.layers),
        ]

    def manifest(self, *, docker: bool = False) -> Blob:
        config, *layers = self.blobs(docker=docker)
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        }
        return Blob(media_type, to_json(document))

    def layout_files(self, name: str = "latest") -> dict[str, bytes]:
        """The files of an OCI image layout with this one image in it."""
        manifest = self.manifest()
        annotations = {"org.opencontainers.image.ref.name": name}
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [{**manifest.descriptor(), "annotations": annotations}],
        }
        return {
            "oci-layout": to_json({"imageLayoutVersion": "1.0.0"}),
            "index.json": to_json(index),
            **{f"blobs/{blob.digest.replace(':', '/')}": blob.data for blob in (manifest, *self.blobs())},
        }

    def oci_layout(self, folder: Path, name: str = "latest") -> Path:
        """Write an OCI image layout and return its folder."""
        for path, data in self.layout_files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder

    def oci_archive(self, name: str = "latest") -> bytes:
        """An OCI image layout as a tar file, as `ctr images import` takes it."""
        return tar(self.layout_files(name))

    def docker_archive(self, *tags: str) -> bytes:
        """A tar file as `docker load` takes it and `docker save` makes it."""
        layers = {f"{layer.diff_id.removeprefix('sha256:')}/layer.tar": layer.tar for layer in self.layers}
        config = f"{self.id.removeprefix('sha256:')}.json"
        manifest = [{"Config": config, "RepoTags": list(tags), "Layers": list(layers)}]
        return tar({**layers, config: self.config, "manifest.json": to_json(manifest)})


def tar(
    files: Mapping[str, bytes],
    *,
    programs: Iterable[str] = (),
    folders: Mapping[str, int] | None = None,
    links: Mapping[str, str] | None = None,
) -> bytes:
    """A tar archive of folders (with their modes), files and symbolic links; `programs` can be executed."""
    buffer = io.BytesIO()
    executable = set(programs)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in (folders or {}).items():
            archive.addfile(_entry(name, tarfile.DIRTYPE, mode))
        for name, data in files.items():
            entry = _entry(name, tarfile.REGTYPE, 0o755 if name in executable else 0o644)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = _entry(name, tarfile.SYMTYPE, 0o777)
            entry.linkname = target
            archive.addfile(entry)
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


@cache
def busybox_image() -> Image:
    """Debian's static busybox under all its names, with the accounts that tests speak of."""
    program = peer("busybox")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    layer = tar(
        {"bin/busybox": program.read_bytes(), "etc/passwd": PASSWD.encode(), "etc/group": GROUP.encode()},
        programs=["bin/busybox"],
        folders={
            "bin": 0o755,
            "dev": 0o755,
            "etc": 0o755,
            "home": 0o755,
            "proc": 0o755,
            "root": 0o700,
            "sys": 0o755,
            "tmp": 0o1777,
            "var": 0o755,
        },
        links={f"bin/{applet}": "busybox" for applet in applets},
    )
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return Image((Layer(layer),), {"Env": [path], "Cmd": ["sh"]})


def static_image(program: Path, *arguments: str) -> Image:
    """An image with one static program and nothing else, which is what it runs."""
    layer = tar({program.name: program.read_bytes()}, programs=[program.name])
    return Image((Layer(layer),), {"Env": ["PATH=/"], "Cmd": [f"/{program.name}", *arguments]})


def hello_world(program: Path) -> Image:
    """A hello-world image around a static program that says hello."""
    return static_image(program)


def with_layers(image: Image, *layers: bytes) -> Image:
    """An image with more layers, each a tar archive, on top of another."""
    return Image((*image.layers, *map(Layer, layers)), image.settings)


def push_busybox(registry_host: str, name: str = "library/busybox", tag: str = "latest") -> str:
    """Push busybox to a registry that this process reaches; return the manifest's digest."""
    return push(busybox_image(), registry_host, name, tag)


def push(image: Image, registry_host: str, name: str, tag: str = "latest", *, docker: bool = False) -> str:
    """Push an image by the distribution API over plain HTTP; return its manifest's digest."""
    repository = f"http://{registry_host}/v2/{name}"
    for blob in image.blobs(docker=docker):
        push_blob(repository, blob)
    manifest = image.manifest(docker=docker)
    send("PUT", f"{repository}/manifests/{tag}", manifest.data, manifest.media_type)
    return manifest.digest


def push_index(registry_host: str, name: str, tag: str, images: Mapping[str, Image]) -> str:
    """Push images for several platforms ("os/architecture") under one tag; return the index's digest."""
    manifests = []
    for platform, image in images.items():
        push(image, registry_host, name, f"{tag}-{platform.replace('/', '-')}")
        system, architecture = platform.split("/")
        described = {"os": system, "architecture": architecture}
        manifests.append({**image.manifest().descriptor(), "platform": described})
    index = Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
    send("PUT", f"http://{registry_host}/v2/{name}/manifests/{tag}", index.data, index.media_type)
    return index.digest


def push_blob(repository: str, blob: Blob) -> None:
    """Upload a blob in one piece, unless the registry has it."""
    if has_blob(repository, blob):
        return
    upload = send("POST", f"{repository}/blobs/uploads/")
    location = urllib.parse.urljoin(f"{repository}/", upload["Location"])
    joint = "&" if urllib.parse.urlsplit(location).query else "?"
    query = urllib.parse.urlencode({"digest": blob.digest})
    send("PUT", f"{location}{joint}{query}", blob.data, "application/octet-stream")


def has_blob(repository: str, blob: Blob) -> bool:
    try:
        send("HEAD", f"{repository}/blobs/{blob.digest}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def send(method: str, url: str, data: bytes = b"", media_type: str = "") -> Mapping[str, str]:
    """Send a request, past any proxy, and return the answer's headers; a refusal raises HTTPError."""
    headers = {"Content-Type": media_type} if media_type else {}
    body = data if method in ("PUT", "POST") else None
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return dict(response.headers.items())
