"""Archives of images, good ones and bad ones."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Mapping

import grpc

from containerd.client import digest_of
from support.images import OCI_INDEX, Image, Layer, tar, to_json

Code = grpc.StatusCode


def image_of(seed: int) -> Image:
    """Two layers that cannot be compressed, others for each seed."""
    chance = random.Random(seed)
    layers = (Layer(tar({"a": chance.randbytes(100_000)})), Layer(tar({"b": chance.randbytes(200_000)})))
    return Image(layers, {"Cmd": ["/a"]})


IMAGE = image_of(1)

# Its blobs are never kept, in any namespace: what one has is not read again for another.
BAD = image_of(2)


def hostile() -> Mapping[str, tuple[bytes, grpc.StatusCode, str]]:
    files = BAD.layout_files("x:1")
    layer = f"blobs/{BAD.blobs()[1].digest.replace(':', '/')}"
    manifest = f"blobs/{BAD.manifest().digest.replace(':', '/')}"
    other = bytes(len(files[layer]))
    wrong = json.loads(BAD.manifest().data)
    wrong["config"]["digest"] = "sha256:../../../etc/passwd"
    negative = json.loads(BAD.manifest().data)
    negative["layers"][0]["size"] = -1
    both = {**json.loads(BAD.manifest().data), "manifests": []}
    return {
        # CVE-2021-41190: one document must not be two things.
        "two things": (
            with_manifest(files, both),
            Code.INVALID_ARGUMENT,
            "expected manifest but found index",
        ),
        "no tar": (b"x" * 2000, Code.INVALID_ARGUMENT, "invalid tar archive"),
        "empty": (b"", Code.INVALID_ARGUMENT, "invalid tar archive"),
        "unknown": (tar({"a": b"a"}), Code.INVALID_ARGUMENT, "unrecognized image format"),
        "version": (
            tar({**files, "oci-layout": b'{"imageLayoutVersion":"9"}'}),
            Code.INVALID_ARGUMENT,
            "unsupported OCI version 9",
        ),
        "no index": (tar({"oci-layout": files["oci-layout"]}), Code.INVALID_ARGUMENT, "missing index.json"),
        "index": (tar({**files, "index.json": b"[1]"}), Code.INVALID_ARGUMENT, "expected object"),
        "nested": (tar({**files, "index.json": b"[" * 100_000}), Code.INVALID_ARGUMENT, "nested too deeply"),
        "other layer": (tar({**files, layer: other}), Code.DATA_LOSS, "content is not sha256:"),
        "short layer": (tar({**files, layer: b"x"}), Code.INVALID_ARGUMENT, "expected"),
        "other manifest": (tar({**files, manifest: bytes(len(files[manifest]))}), Code.DATA_LOSS, "content"),
        "no layer": (
            tar({name: data for name, data in files.items() if name != layer}),
            Code.NOT_FOUND,
            "not found",
        ),
        "name outside": (tar({**files, "../x": b"x"}), Code.INVALID_ARGUMENT, "invalid path in archive"),
        "digest outside": (with_manifest(files, wrong), Code.INVALID_ARGUMENT, "invalid checksum digest"),
        "negative size": (with_manifest(files, negative), Code.INVALID_ARGUMENT, "negative size"),
        "docker config": (
            tar({"manifest.json": b'[{"Config":"c","Layers":[]}]'}),
            Code.INVALID_ARGUMENT,
            'image config "c" not found',
        ),
        "docker layers": (
            tar({"c": BAD.config, "manifest.json": b'[{"Config":"c","Layers":["l"]}]'}),
            Code.INVALID_ARGUMENT,
            "2 diff_ids for 1 layers",
        ),
    }


def with_manifest(files: Mapping[str, bytes], manifest: object) -> bytes:
    """A layout whose only image has another manifest."""
    raw = to_json(manifest)
    index = json.loads(files["index.json"])
    index["manifests"][0] |= {"digest": digest_of(raw), "size": len(raw)}
    return tar({**files, "index.json": to_json(index), f"blobs/sha256/{digest_of(raw)[7:]}": raw})


def index_archive(images: Mapping[str, Image], name: str) -> bytes:
    """A layout with one index of images for several architectures."""
    files = {path: data for image in images.values() for path, data in image.layout_files().items()}
    manifests = [
        {**image.manifest().descriptor(), "platform": {"os": "linux", "architecture": architecture}}
        for architecture, image in images.items()
    ]
    raw = to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
    annotations = {"io.containerd.image.name": name}
    entry = {"mediaType": OCI_INDEX, "digest": digest_of(raw), "size": len(raw), "annotations": annotations}
    files["index.json"] = to_json({"schemaVersion": 2, "manifests": [entry]})
    return tar({**files, f"blobs/sha256/{digest_of(raw)[7:]}": raw})


def read_tar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {one.name: archive.extractfile(one) for one in archive}
        return {name: file.read() if file else b"" for name, file in files.items()}
