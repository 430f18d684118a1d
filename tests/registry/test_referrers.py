"""What refers to an image: by the API, and by tag where a registry has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from cutaway import errors
from cutaway.registry.client.client import Repository
from cutaway.registry.client.referrers import referrers
from registry.fake import NAME, FakeRegistry, refusal, run_with
from support.images import OCI_INDEX, Blob, to_json

Repositories = Callable[..., Repository]

SUBJECT = "sha256:" + "ab" * 32
SIGNATURE = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "sha256:" + "cd" * 32,
    "size": 7,
    "artifactType": "application/x.signature",
}
BILL = {**SIGNATURE, "digest": "sha256:" + "ef" * 32, "artifactType": "application/x.bill+json"}


def index(*entries: dict[str, Any]) -> Blob:
    return Blob(OCI_INDEX, to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}))


def test_they_come_page_by_page_and_are_filtered() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            if "page" in request.query:
                return web.Response(body=index(BILL).data)
            link = f'</v2/{NAME}/referrers/{SUBJECT}?page=2>; rel="next"'
            return web.Response(body=index(SIGNATURE).data, headers={"Link": link})

        registry.on(f"/referrers/{SUBJECT}", listed)
        assert [one.digest for one in await referrers(repository(), SUBJECT)] == [
            SIGNATURE["digest"],
            BILL["digest"],
        ]
        (bill,) = await referrers(repository(), SUBJECT, "application/x.bill+json")
        assert bill.digest == BILL["digest"]

    run_with(work)


def test_a_registry_without_the_api_has_them_under_a_tag() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        registry.add_manifest(index(SIGNATURE), SUBJECT.replace(":", "-"))
        (found,) = await referrers(repository(), SUBJECT)
        assert found.digest == SIGNATURE["digest"]
        assert await referrers(repository(), SIGNATURE["digest"]) == []

    run_with(work)


@pytest.mark.parametrize(
    "answer",
    ["[]", "{", '{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"x","size":1}]}', "[" * 9999],
)
def test_what_is_no_list_is_refused(answer: str) -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def listed(request: web.Request) -> web.StreamResponse:
            return web.Response(text=answer)

        registry.on(f"/referrers/{SUBJECT}", listed)
        with pytest.raises(errors.InvalidArgument, match="list of referrers"):
            await referrers(repository(), SUBJECT)

    run_with(work)


def test_a_refusal_is_told() -> None:
    async def work(registry: FakeRegistry, repository: Repositories) -> None:
        async def limited(request: web.Request) -> web.StreamResponse:
            return refusal(429, "TOOMANYREQUESTS", "slow down")

        registry.on(f"/referrers/{SUBJECT}", limited)
        with pytest.raises(errors.ResourceExhausted, match="slow down"):
            await referrers(repository(), SUBJECT)
        with pytest.raises(errors.InvalidArgument, match="invalid checksum digest"):
            await referrers(repository(), "sha256:../../x")

    run_with(work)
