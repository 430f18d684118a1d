"""Platforms: how they are written, and which entry of an index is chosen."""

from __future__ import annotations

import pytest

from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci.image_spec import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Platform
from cutaway.registry.client.platforms import choose, format_platform, host_platform, parse_platform


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("arm64", "linux/arm64"),
        ("Linux/AMD64", "linux/amd64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_forms(text: str, shown: str) -> None:
    assert format_platform(parse_platform(text)) == shown


def test_system_alone_means_this_machines_architecture() -> None:
    assert parse_platform("linux").architecture == host_platform().architecture


@pytest.mark.parametrize(
    "text", ["", "nonsense", "a/b/c/d", "linux/", "linux/amd 64", "linux/\namd64", "/amd64"]
)
def test_refusals(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_platform(text)


def index(*platforms: str | None) -> Index:
    """An index whose entries' digests are their positions."""
    return Index(
        schema_version=2,
        media_type=OCI_INDEX,
        manifests=[
            Descriptor(
                media_type=OCI_MANIFEST,
                digest=str(position),
                size=1,
                platform=parse_exactly(text) if text else None,
            )
            for position, text in enumerate(platforms)
        ],
    )


def parse_exactly(text: str) -> Platform:
    system, architecture, *variant = text.split("/")
    return Platform(os=system, architecture=architecture, variant=variant[0] if variant else None)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64", 1),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["linux/arm64/v8"], "linux/arm64/v9", 0),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v7", "linux/arm/v5"], "linux/arm/v6", 1),
        (["linux/arm/v6", "linux/arm"], "linux/arm", 1),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v3", 1),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
        ([None, "linux/amd64"], "linux/amd64", 1),
        (["linux/arm64", None], "linux/amd64", 1),
        (["linux/amd64", "linux/amd64"], "linux/amd64", 0),
    ],
)
def test_choice(offered: list[str | None], wanted: str, chosen: int) -> None:
    assert choose(index(*offered), parse_exactly(wanted)).digest == str(chosen)


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (["linux/arm64"], "linux/amd64"),
        (["linux/arm/v7"], "linux/arm/v6"),
        (["linux/amd64/v3"], "linux/amd64"),
        (["windows/amd64"], "linux/amd64"),
        (["unknown/unknown"], "linux/amd64"),
        ([], "linux/amd64"),
    ],
)
def test_nothing_fits(offered: list[str | None], wanted: str) -> None:
    with pytest.raises(NotFound) as caught:
        choose(index(*offered), parse_exactly(wanted))
    assert str(caught.value) == f"no matching manifest for {wanted} in the manifest list entries"


def test_attestation_is_passed_over_even_with_a_fitting_platform() -> None:
    made = index("linux/amd64", "linux/amd64")
    made.manifests[0].annotations = {"vnd.docker.reference.type": "attestation-manifest"}
    assert choose(made, parse_exactly("linux/amd64")).digest == "1"
