"""Index, manifest and configuration with anything in any place: refused in a line, or an image as others."""

from __future__ import annotations

import asyncio
import copy
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from attacks.hostile import Place, at, places
from attacks.victim import IMAGE, LAYER, Victim
from cutaway import errors
from cutaway.engine.containerd_client import ContainerdClient
from cutaway.engine.images import ImageService, ImageSettings
from cutaway.registry.reference import parse
from registry.fake import FakeRegistry, quick
from support.images import ARCHITECTURES, OCI, OCI_INDEX, OCI_MANIFEST, Blob, to_json

pytestmark = [pytest.mark.root, pytest.mark.peers]

ARCHITECTURE = ARCHITECTURES[os.uname().machine]

CONFIG: dict[str, Any] = {
    **json.loads(IMAGE.config),
    "author": "a",
    "variant": "",
    "os.version": "1",
    "os.features": ["x"],
    "container_config": {"Cmd": ["x"]},
    "docker_version": "20",
    "config": {
        "User": "1:2",
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["A=b"],
        "Entrypoint": ["/x"],
        "Cmd": ["x"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/",
        "Labels": {"a": "b"},
        "StopSignal": "SIGTERM",
        "StopTimeout": 1,
        "Shell": ["sh"],
        "OnBuild": ["RUN x"],
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1, "Timeout": 1, "StartPeriod": 1, "Retries": 1},
    },
    "history": [
        {
            "created": "2024-01-01T00:00:00Z",
            "created_by": "x",
            "author": "a",
            "comment": "c",
            "empty_layer": True,
        }
    ],
}
DESCRIBED = {
    "annotations": {"a": "b"},
    "urls": ["http://127.0.0.1:9/x"],
    "data": "aGVsbG8=",
    "artifactType": "a/b",
}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "artifactType": "a/b",
    "config": {"mediaType": f"{OCI}config.v1+json", "digest": "", "size": 0, **DESCRIBED},
    "layers": [{**LAYER.descriptor(), "annotations": {"a": "b"}}],
    "subject": {**LAYER.descriptor(), **DESCRIBED},
    "annotations": {"a": "b"},
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "artifactType": "a/b",
    "manifests": [
        {
            "mediaType": OCI_MANIFEST,
            "digest": "",
            "size": 0,
            "platform": {
                "os": "linux",
                "architecture": ARCHITECTURE,
                "variant": "v1",
                "os.version": "1",
                "os.features": ["x"],
                "features": ["x"],
            },
            **DESCRIBED,
        }
    ],
    "annotations": {"a": "b"},
}

DOCUMENTS = {"index": INDEX, "manifest": MANIFEST, "config": CONFIG}
PLACES = [(kind, place) for kind, whole in DOCUMENTS.items() for place in places(whole)]

TEXTS = st.sampled_from(
    ["", "\0", "\ud800", "../..", "/etc/passwd", "x\ny", "\x1b[2J", "a" * 5000, "sha256:" + "0" * 64,
     "sha256:x", "sha512:" + "0" * 128, LAYER.digest, OCI_INDEX, OCI_MANIFEST, "unknown", "v8",
     "99999-99-99T99:99:99Z", "2024-02-30T00:00:00Z", "2024-01-01", "0001-01-01T00:00:00Z",
     "2024-01-01T00:00:00.123456789+14:00"]
) | st.text(max_size=8)  # fmt: skip
NUMBERS = st.sampled_from(
    [0, -1, 1, 1.5, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 70, 1e300, -0.0, 0.0, True]
)
JUNK = st.recursive(
    st.none() | TEXTS | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)


def changed(kind: str, place: Place, junk: object, name: str) -> Any:
    whole = copy.deepcopy(DOCUMENTS[name])
    if name == kind:
        at(whole, place[:-1])[place[-1]] = junk
    return whole


def served(registry: FakeRegistry, kind: str, place: Place, junk: object) -> None:
    """An image with one place changed, and the digests of all above it as they then are."""
    config = Blob(f"{OCI}config.v1+json", to_json(changed(kind, place, junk, "config")))
    whole = changed(kind, place, junk, "manifest")
    fill(whole.get("config"), config, place if kind == "manifest" else ())
    manifest = Blob(OCI_MANIFEST, to_json(whole))
    whole = changed(kind, place, junk, "index")
    entries = whole.get("manifests")
    fill(
        entries[0] if isinstance(entries, list) and entries else None,
        manifest,
        place if kind == "index" else (),
    )
    index = Blob(OCI_INDEX, to_json(whole))
    registry.blobs |= {config.digest: config.data, LAYER.digest: LAYER.data}
    registry.add_manifest(manifest, "")
    registry.add_manifest(index, "1")


def fill(descriptor: Any, blob: Blob, place: Place) -> None:
    """Digest and size, unless it is one of them that was changed."""
    if isinstance(descriptor, dict):
        for key, value in (("digest", blob.digest), ("size", len(blob.data))):
            if not place or place[-1] != key:
                descriptor[key] = value


async def use(images: ImageService, registry: FakeRegistry) -> None:
    """Pull, and look at what came from all sides. Raises nothing but our own errors."""
    image = await images.pull(parse(registry.reference()))
    try:
        assert image.diff_ids == (IMAGE.layers[0].diff_id,)
        found = await images.inspect(image.id)
        json.dumps([found, await images.history(image.id), await images.list()])
        await images.list({"label": ["a=b"], "before": [image.id]})
        async for _ in await images.save([image.id]):
            pass
    finally:
        await images.remove(image.id, force=True)


@settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(PLACES), JUNK)
def test_anything_anywhere(victim: Victim, where: tuple[str, Place], junk: object) -> None:
    async def main() -> None:
        client = ContainerdClient(os.fspath(victim.containerd.address), victim.namespace)
        async with (
            FakeRegistry() as registry,
            ImageService(client, ImageSettings(registry=quick())) as images,
        ):
            try:
                served(registry, *where, junk)
            except UnicodeEncodeError:
                return  # what JSON in UTF-8 cannot have
            try:
                await asyncio.wait_for(use(images, registry), 30)
            except errors.CutawayError as error:
                text = str(error)
                assert text and "\n" not in text and len(text) < 1500 and "\x1b" not in text
            await client.close()

    asyncio.run(main())
    victim.forget()
    assert victim.is_empty()
