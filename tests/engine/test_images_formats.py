"""Forms that images come in: indexes in indexes, variants, attestations, layers of every compression."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from aiohttp import web

from cutaway import errors
from cutaway.engine.images import ImageService
from cutaway.engine.images.progress import Event
from cutaway.registry.client.platforms import parse_platform
from cutaway.registry.reference import parse
from engine.image_stack import BOTH, Stack, running
from registry.fake import FakeRegistry, small_image
from support.images import OCI_INDEX, Blob, to_json
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@pytest.fixture(scope="module", params=BOTH)
def containerd(
    request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs
) -> Iterator[Containerd]:
    yield from running(request.param, session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def index(*entries: dict[str, object]) -> Blob:
    return Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}))


def test_index_in_an_index_is_followed_pushed_and_removed_whole(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        blob = registry.add(small_image("deep"))
        for _ in range(3):
            blob = index(blob.descriptor())
            registry.add_manifest(blob)
        image = await images.pull(parse(registry.reference()))
        assert (image.id, image.target.digest) == (small_image("deep").id, blob.digest)
        archive = b"".join([piece async for piece in await images.save([registry.reference()])])
        for digest in registry.manifests:
            assert not digest.startswith("sha256:") or digest.removeprefix("sha256:").encode() in archive
        await images.remove(registry.reference())

    stack.run(work)
    assert not any(stack.left().values()) and not stack.content()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("linux/arm/v6", "v6"),
        ("linux/arm/v7", "v7"),
        ("linux/arm", "v7"),
        ("linux/arm/v8", "v7"),
        ("linux/arm/v5", ""),
    ],
)
def test_variants_of_arm(stack: Stack, asked: str, expected: str) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        made = {variant: small_image(variant) for variant in ("v7", "v6")}
        entries = [
            {
                **registry.add(image, "").descriptor(),
                "platform": {"os": "linux", "architecture": "arm", "variant": variant},
            }
            for variant, image in made.items()
        ]
        attested = {
            **registry.add(small_image("attestation"), "").descriptor(),
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
            "platform": {"os": "unknown", "architecture": "unknown"},
        }
        registry.add_manifest(index(*entries, attested))
        if not expected:
            with pytest.raises(errors.NotFound) as caught:
                await images.pull(parse(registry.reference()), parse_platform(asked))
            assert str(caught.value) == f"no matching manifest for {asked} in the manifest list entries"
            return
        image = await images.pull(parse(registry.reference()), parse_platform(asked))
        assert image.id == made[expected].id

    stack.run(work)


@pytest.mark.parametrize(
    ("media_type", "pack"),
    [
        (OCI_LAYER, bytes),
        (f"{OCI_LAYER}+gzip", gzip.compress),
        (f"{OCI_LAYER}+zstd", zstandard.compress),
        (DOCKER_LAYER, bytes),
        (f"{DOCKER_LAYER}.gzip", gzip.compress),
    ],
)
def test_layers_of_every_kind(stack: Stack, media_type: str, pack: Callable[[bytes], bytes]) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        source = small_image("layered")
        layer = Blob(media_type, pack(source.layers[0].tar))
        document = json.loads(source.manifest().data)
        document["layers"] = [layer.descriptor()]
        registry.add(source, "")
        registry.blobs[layer.digest] = layer.data
        registry.add_manifest(Blob(source.manifest().media_type, to_json(document)))
        image = await images.pull(parse(registry.reference()))
        assert image.diff_ids == (source.layers[0].diff_id,)
        # What came in goes out: the archive holds the very blob.
        archive = b"".join([piece async for piece in await images.save([registry.reference()])])
        assert layer.data in archive
        await images.remove(registry.reference())
        (loaded,) = await images.load(_pieces(archive))
        assert loaded.image.target.digest == image.target.digest
        await images.remove(loaded.image.id)

    stack.run(work)
    assert not any(stack.left().values()) and not stack.content()


FOREIGN = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
]


@pytest.mark.parametrize("media_type", FOREIGN)
def test_foreign_layers_come_from_the_registry_and_are_not_pushed(stack: Stack, media_type: str) -> None:
    """Their URLs are not asked, as by dockerd on Linux."""

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        async with FakeRegistry() as elsewhere:
            source = small_image(f"foreign {media_type}", media_type)
            registry.add(source, "")
            config, layer, plain = source.blobs()
            document = json.loads(source.manifest().data)
            document["layers"][0] |= {"mediaType": media_type, "urls": [f"http://{elsewhere.host}/layer"]}
            registry.add_manifest(Blob(source.manifest().media_type, to_json(document)))
            del registry.blobs[layer.digest]
            with pytest.raises(errors.NotFound) as caught:
                await images.pull(parse(registry.reference()))
            assert "\n" not in str(caught.value)
            registry.blobs[layer.digest] = layer.data
            image = await images.pull(parse(registry.reference()))
            assert (image.id, image.diff_ids[0]) == (source.id, source.layers[0].diff_id)
            assert not elsewhere.seen

            async def there(request: web.Request) -> web.StreamResponse:
                return web.Response(status=201 if request.method == "PUT" else 200)

            for blob in (config, plain):
                registry.on(f"/v2/other/blobs/{blob.digest}", there)
            registry.on("/v2/other/manifests/1", there)
            await images.tag(registry.reference(), f"{registry.host}/other", "1")
            events = list[Event]()
            await images.push(parse(f"{registry.host}/other:1"), progress=events.append)
            skipped = [event for event in events if event.get("status") == "Skipped foreign layer"]
            assert [event["id"] for event in skipped] == [layer.digest[7:19]]
            assert not any(f"/other/blobs/{layer.digest}" in seen.path for seen in registry.seen)
            await images.remove(image.id, force=True)

    stack.run(work)


async def _pieces(data: bytes):  # type: ignore[no-untyped-def]  # as a request's body comes
    yield data


def test_artifact_brought_by_others_is_listed_by_nobody_and_breaks_nothing(
    stack: Stack, base_dir: Path
) -> None:
    config = Blob("application/vnd.oci.empty.v1+json", b"{}")
    manifest = Blob(
        "application/vnd.oci.image.manifest.v1+json",
        to_json({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                 "artifactType": "application/vnd.example", "config": config.descriptor(), "layers": []}),
    )  # fmt: skip
    for blob in (config, manifest):
        stack.containerd.ctr(
            "content", "ingest", "--expected-digest", blob.digest, f"ref-{blob.digest[-6:]}",
            namespace=stack.namespace, input=blob.data.decode(),
        )  # fmt: skip

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        from cutaway.oci.image_spec import Descriptor

        target = Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=len(manifest.data))
        await images._store.put("example.org/artifact:1", target, {})
        registry.add(small_image("real"))
        image = await images.pull(parse(registry.reference()))
        assert [item["Id"] for item in await images.list()] == [image.id]
        with pytest.raises(errors.CutawayError):
            await images.inspect("example.org/artifact:1")
        await images.remove(image.id)

    stack.run(work)
