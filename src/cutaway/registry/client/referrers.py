"""What refers to a manifest by its `subject`: signatures, attestations, bills of material.

`GET referrers/DIGEST`, an image index page by page; of a registry without that, the index under the tag
`ALGORITHM-HEX`. Source: opencontainers/distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from cutaway import errors
from cutaway.oci import document
from cutaway.oci.image_spec import OCI_INDEX, Descriptor, Index
from cutaway.registry.client.client import Repository
from cutaway.registry.client.manifests import check_descriptor
from cutaway.registry.client.settings import MAX_MANIFEST
from cutaway.registry.client.tags import next_page
from cutaway.registry.client.transport import read_bounded
from cutaway.registry.reference import check_digest

MAX_REFERRERS: Final = 10_000
_ACCEPT: Final = {"Accept": OCI_INDEX}


async def referrers(repository: Repository, digest: str, artifact_type: str = "") -> list[Descriptor]:
    """Descriptors of the manifests whose subject is `digest`, perhaps only those of one artifact type.

    Raises `InvalidArgument` for what is no digest or no index, `ResourceExhausted` for too many.
    """
    check_digest(digest)
    found = await _listed(repository, digest, artifact_type)
    if found is None:
        found = await _by_tag(repository, digest)
    # A registry may list all; whether it has filtered it says in a header that we need not read then.
    return [one for one in found if not artifact_type or one.artifact_type == artifact_type]


async def _listed(repository: Repository, digest: str, artifact_type: str) -> list[Descriptor] | None:
    """By the API; None where the registry has it not."""
    found: list[Descriptor] = []
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    page: str | None = f"referrers/{digest}{query}"
    while page:
        async with repository.request("GET", page, _ACCEPT, accepted=(200, 404, 405)) as response:
            if response.status != 200:
                return None
            new = _read(await read_bounded(response, MAX_MANIFEST, "the list of referrers"))
            page = next_page(response.url, response.headers)
        found += new
        if len(found) > MAX_REFERRERS:
            raise errors.ResourceExhausted(f"{digest} has over {MAX_REFERRERS} referrers")
        if not new:
            break
    return found


async def _by_tag(repository: Repository, digest: str) -> list[Descriptor]:
    tag = digest.replace(":", "-", 1)
    async with repository.request("GET", f"manifests/{tag}", _ACCEPT, accepted=(200, 404)) as response:
        if response.status == 404:
            return []
        return _read(await read_bounded(response, MAX_MANIFEST, "the list of referrers"))


def _read(data: bytes) -> list[Descriptor]:
    found = document.loads(Index, data, "list of referrers").manifests
    for number, one in enumerate(found):
        check_descriptor(one, f"list of referrers: manifests[{number}]")
    return found
