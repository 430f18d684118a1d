"""Archives that lie: each gets one clear line, and nothing of it stays."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from cutaway import errors
from cutaway.engine.images import ImageService
from engine.image_stack import BOTH, Stack, running
from registry.fake import FakeRegistry, small_image
from support.images import Blob, tar, to_json
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module", params=BOTH)
def containerd(
    request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs
) -> Iterator[Containerd]:
    yield from running(request.param, session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def files(**changes: bytes | None) -> dict[str, bytes]:
    """A good archive of Docker's kind, with files replaced or taken away."""
    with tarfile.open(fileobj=io.BytesIO(small_image("x").docker_archive("x:1"))) as opened:
        found = {}
        for member in opened:
            file = opened.extractfile(member)
            if file is not None:
                found[member.name] = file.read()
    renamed = {name.replace("__", "."): data for name, data in changes.items()}
    return {name: data for name, data in {**found, **renamed}.items() if data is not None}


def manifest(**changes: object) -> bytes:
    item = json.loads(files()["manifest.json"])[0]
    return to_json([{**item, **changes}])


def listed(**changes: object) -> bytes:
    """A good archive but for these values in its manifest."""
    return tar(files(manifest__json=manifest(**changes)))


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    """An archive whose manifest.json is a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, target
        opened.addfile(entry)
        data = b"{}"
        plain = tarfile.TarInfo("plain")
        plain.size = len(data)
        opened.addfile(plain, io.BytesIO(data))
    return out.getvalue()


def huge_header() -> bytes:
    """A long name that claims to be of 3 GiB."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def layout(**changes: bytes) -> bytes:
    found = small_image("x").layout_files("x:1")
    return tar({**found, **{name.replace("__", "."): data for name, data in changes.items()}})


def nested(depth: int) -> bytes:
    """Indexes in indexes, an image in the innermost."""
    found = small_image("x").layout_files("x:1")
    entry: dict[str, object] = small_image("x").manifest().descriptor()
    for _ in range(depth):
        media_type = "application/vnd.oci.image.index.v1+json"
        blob = Blob(media_type, to_json({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry]}))
        found[f"blobs/sha256/{blob.digest.partition(':')[2]}"] = blob.data
        entry = blob.descriptor()
    return tar({**found, "index.json": to_json({"schemaVersion": 2, "manifests": [entry]})})


def damaged_blob() -> bytes:
    """A layout whose layer has another content than its name."""
    found = small_image("x").layout_files("x:1")
    layer = small_image("x").manifest()
    digest = json.loads(layer.data)["layers"][0]["digest"].partition(":")[2]
    found[f"blobs/sha256/{digest}"] = bytes(len(found[f"blobs/sha256/{digest}"]))
    return tar(found)


LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "invalid tar archive: empty file"),
    "garbage": (lambda: b"garbage" * 1000, "invalid tar archive"),
    "damaged gzip": (lambda: gzip.compress(tar(files()))[:-40], "damaged gzip stream"),
    "cut off": (lambda: tar(files())[:2000], "invalid tar archive"),
    "no manifest": (lambda: tar(files(manifest__json=None)), "neither manifest.json"),
    "not JSON": (lambda: tar(files(manifest__json=b"[{")), "manifest.json"),
    "wrong type": (lambda: tar(files(manifest__json=b'[{"Config":1}]')), "expected string, got number"),
    "missing layer": (lambda: listed(Layers=["no/layer.tar"]), "no file 'no/layer.tar'"),
    "missing config": (lambda: listed(Config="no.json"), "no file 'no.json'"),
    "fewer layers": (lambda: listed(Layers=[]), "layers length mismatch"),
    "path outside": (lambda: listed(Config="../../etc/passwd"), "invalid path in archive"),
    "absolute path": (lambda: listed(Config="/etc/passwd"), "no file '/etc/passwd'"),
    "bad tag": (lambda: listed(RepoTags=["BAD:1"]), "must be lowercase"),
    "tag with digest": (
        lambda: listed(RepoTags=["x@sha256:" + "0" * 64]), "has no digest"),
    "link outside": (lambda: linked("manifest.json", "../../../etc/passwd"), "invalid path in archive"),
    "absolute link": (lambda: linked("manifest.json", "/etc/passwd"), "neither manifest.json"),
    "link to itself": (lambda: linked("manifest.json", "manifest.json"), "neither manifest.json"),
    "hard link out": (lambda: linked("manifest.json", "../x", tarfile.LNKTYPE), "invalid path in archive"),
    "device": (lambda: linked("manifest.json", "", tarfile.CHRTYPE), "neither file, link nor folder"),
    "member outside": (lambda: tar({"../x": b"1"}), "invalid path in archive"),
    "header of 3 GiB": (huge_header, "header of"),
    "other version": (lambda: layout(**{"oci-layout": b'{"imageLayoutVersion":"2.0"}'}), "expected 1.0.0"),
    "index of nothing": (
        lambda: layout(index__json=to_json({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64,
             "size": 3}]})), "no file 'blobs/sha256/000"),
    "bad digest": (
        lambda: layout(index__json=to_json({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "../../x", "size": 3}]})),
        "invalid digest"),
    "indexes without end": (lambda: nested(6), "indexes inside each other"),
    "damaged blob": (damaged_blob, "its content is not"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lying_archive_is_refused_and_leaves_nothing(stack: Stack, lie: str) -> None:
    make, words = LIES[lie]
    refuse(stack, make(), words)


def test_layer_that_is_not_what_the_configuration_says(stack: Stack) -> None:
    archive = files()
    name = next(name for name in archive if name.endswith("layer.tar"))
    refuse(stack, tar({**archive, name: tar({"other": b"content"})}), "its content is not")
    packed = gzip.compress(tar({"other": b"content"}), mtime=0)
    refuse(stack, tar({**archive, name: packed}), "configuration says")


def test_second_image_that_lies_takes_the_first_along(stack: Stack) -> None:
    good = json.loads(files()["manifest.json"])[0]
    both = to_json([good, {**good, "RepoTags": ["y:1"], "Layers": ["no/layer.tar"]}])
    refuse(stack, tar(files(manifest__json=both)), "no file")


def test_bomb_ends_at_its_limit(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.oci.archive.spool.FREE_GROWTH", 1 << 20)
    refuse(stack, gzip.compress(bytes(64 << 20), mtime=0), "grows beyond")


def test_nested_indexes_are_followed_so_far(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        (loaded,) = await images.load(pieces(nested(3)))
        assert loaded.image.id == small_image("x").id
        await images.remove(loaded.image.id)

    stack.run(work)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 20):
        yield data[start : start + (1 << 20)]


def refuse(stack: Stack, data: bytes, words: str) -> None:
    told: list[dict[str, object]] = []

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        with pytest.raises(errors.CutawayError) as caught:
            await images.load(pieces(data), told.append)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    stack.run(work)
    assert not told
    assert not any(stack.left().values()) and not stack.content()
