"""Removing images by Docker's rules, and finding, listing and tagging them, on both containerds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cutaway import errors
from cutaway.engine.images import Image, ImageService, User
from cutaway.registry.reference import parse
from engine.image_stack import BOTH, Stack, running
from registry.fake import FakeRegistry, small_image
from support.netns import NetNs
from support.stack import Containerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

STOPPED = User(id="5" * 64, running=False)
RUNNING = User(id="6" * 64, running=True)


@pytest.fixture(scope="module", params=BOTH)
def containerd(
    request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs
) -> Iterator[Containerd]:
    yield from running(request.param, session_base, session_netns)


@pytest.fixture
def stack(containerd: Containerd, request: pytest.FixtureRequest) -> Stack:
    return Stack(containerd, request.node.name)


def used_by(*users: User) -> Callable[[str], list[User]]:
    return lambda image_id: list(users)


async def pulled(images: ImageService, registry: FakeRegistry, text: str) -> Image:
    """An image of this text under the tag `1`."""
    registry.add(small_image(text))
    return await images.pull(parse(registry.reference()))


async def refused(images: ImageService, name: str, *users: User, force: bool = False) -> str:
    with pytest.raises(errors.FailedPrecondition) as caught:
        await images.remove(name, users=used_by(*users), force=force)
    return str(caught.value)


def test_last_name_takes_the_image_along_and_others_only_untag(stack: Stack) -> None:
    told: list[tuple[str, str]] = []

    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "by name")
        digest = image.target.digest
        await images.tag(registry.reference(), "other", "2")
        # One of two names may go even while a container runs (seams.md, trap 32).
        removed = await images.remove("other:2", users=used_by(RUNNING))
        assert removed == [{"Untagged": "other:2"}, {"Untagged": f"other@{digest}"}]
        name = registry.reference()
        removed = await images.remove(name, tell=lambda action, image_id: told.append((action, image_id)))
        assert removed == [
            {"Untagged": name},
            {"Untagged": f"{name.rpartition(':')[0]}@{digest}"},
            {"Deleted": image.id},
            {"Deleted": image.chain_id},
        ]
        assert told == [("untag", image.id), ("delete", image.id)]
        with pytest.raises(errors.NotFound) as caught:
            await images.remove(name)
        assert str(caught.value) == f"No such image: {name}"

    stack.run(work)
    assert not any(stack.left().values()) and not stack.content()


def test_image_that_was_dangling_goes_with_its_next_last_name(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        old = await pulled(images, registry, "was dangling")
        new = await pulled(images, registry, "took its tag")
        await images.tag(old.id, "again")
        removed = await images.remove("again")
        assert [step.get("Untagged", "").partition("@")[0] for step in removed[:2]] == [
            "again:latest",
            "again",
        ]
        assert {"Deleted": old.id} in removed
        assert [item["Id"] for item in await images.list()] == [new.id]

    stack.run(work)


def test_image_pulled_by_digest_has_no_tag_and_is_not_dangling(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        manifest = registry.add(small_image("by digest"))
        reference = parse(registry.reference()).with_digest(manifest.digest)
        image = await images.pull(reference)
        (item,) = await images.list()
        assert (item["RepoTags"], item["RepoDigests"]) == ([], [reference.familiar])
        assert not await images.list({"dangling": ["true"]})
        removed = await images.remove(reference.familiar)
        assert removed[:2] == [{"Untagged": reference.familiar}, {"Deleted": image.id}]

    stack.run(work)


def test_image_in_use_by_name(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image, name = await pulled(images, registry, "in use"), registry.reference()
        assert await refused(images, name, STOPPED) == (
            f'conflict: unable to remove repository reference "{name}" (must force) - '
            f"container 555555555555 is using its referenced image {image.short_id}"
        )
        removed = await images.remove(name, users=used_by(STOPPED), force=True)
        assert removed[-1] == {"Deleted": image.chain_id}

        # What runs stays, without a name.
        image = await images.pull(parse(name))
        removed = await images.remove(name, users=used_by(RUNNING), force=True)
        assert [list(step) for step in removed] == [["Untagged"], ["Untagged"]]
        assert [item["RepoTags"] for item in await images.list({"dangling": ["true"]})] == [[]]
        assert await refused(images, image.id, RUNNING, force=True) == (
            f"conflict: unable to delete {image.short_id} (cannot be forced) - "
            "image is being used by running container 666666666666"
        )
        await images.remove(image.id)

    stack.run(work)


def test_image_by_id(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "by id")
        short = image.short_id
        assert await refused(images, short, STOPPED) == (
            f"conflict: unable to delete {short} (must be forced) - "
            "image is being used by stopped container 555555555555"
        )
        assert "cannot be forced" in await refused(images, short, RUNNING, force=True)
        await images.tag(short, "other")
        assert await refused(images, image.id) == (
            f"conflict: unable to delete {short} (must be forced) - "
            "image is referenced in multiple repositories"
        )
        removed = await images.remove(image.id, force=True)
        assert sum("Untagged" in step for step in removed) == 4
        assert {"Deleted": image.id} in removed

    stack.run(work)
    assert not any(stack.left().values())


def test_shared_layers_stay_with_the_other_image(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        registry.add(small_image("base", "top"), "top")
        registry.add(small_image("base"), "base")
        top = await images.pull(parse(registry.reference("top")))
        base = await images.pull(parse(registry.reference("base")))
        removed = await images.remove(registry.reference("top"))
        deleted = [step["Deleted"] for step in removed if "Deleted" in step]
        assert deleted == [top.id, top.chain_id]
        await images.ensure_unpacked(base)

    stack.run(work)
    assert stack.left()["snapshots"].count("Committed") == 1


def test_finding_images(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "find me")
        name, digest = registry.reference(), image.target.digest
        repository = name.rpartition(":")[0]
        await images.tag(name, "plain")
        for text in (name, "plain", "plain:latest", "docker.io/library/plain", image.id, image.short_id,
                     image.id[7:], f"{repository}@{digest}", f"plain@{digest}", digest):  # fmt: skip
            assert (await images.resolve(text)).id == image.id
        for text, said in (
            ("plain:2", "No such image: plain:2"),
            ("nothing", "No such image: nothing:latest"),
            (f"plain@sha256:{'0' * 64}", f"No such image: plain@sha256:{'0' * 64}"),
            (f"sha256:{'0' * 64}", f"No such image: sha256:{'0' * 64}"),
            ("0" * 64, f"No such image: {'0' * 64}"),
            ("000000000000", "No such image: 000000000000:latest"),
        ):
            with pytest.raises(errors.NotFound) as caught:
                await images.resolve(text)
            assert str(caught.value) == said
        with pytest.raises(errors.InvalidArgument):
            await images.resolve("No/Good")

    stack.run(work)


def test_list_and_its_filters(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        one = await pulled(images, registry, "one")
        await images.tag(one.id, "team/one", "1.0")
        await images.tag(one.id, "one")
        (item,) = await images.list()
        assert item["Id"] == one.id and isinstance(item["Size"], int) and item["Size"] > 0
        assert set(item["RepoTags"]) == {"one:latest", "team/one:1.0", registry.reference()}  # type: ignore[call-overload]
        for wanted, found in (
            ({"reference": ["one"]}, 1),
            ({"reference": ["team/*"]}, 1),
            ({"reference": ["team/one:1.?"]}, 1),
            ({"reference": ["t*"]}, 0),
            ({"reference": ["other"]}, 0),
            ({"dangling": ["true"]}, 0),
            ({"dangling": ["false"]}, 1),
            ({"label": ["x"]}, 0),
            ({"before": [one.id]}, 0),
        ):
            assert len(await images.list(wanted)) == found, wanted
        with pytest.raises(errors.InvalidArgument, match="invalid filter 'nonsense'"):
            await images.list({"nonsense": ["1"]})
        with pytest.raises(errors.InvalidArgument, match="invalid filter 'dangling="):
            await images.list({"dangling": ["maybe"]})

    stack.run(work)


def test_tag_refusals(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "tags")
        for repository, tag, said in (
            ("Upper", "", "must be lowercase"),
            ("x", "no tag", "invalid tag format"),
            (f"x@sha256:{'0' * 64}", "", "refusing to create a tag with a digest reference"),
        ):
            with pytest.raises(errors.InvalidArgument, match=said):
                await images.tag(image.id, repository, tag)

    stack.run(work)


def test_image_that_ctr_pulled_is_seen_and_unpacked(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "unpack me again")
        # What another client left: content and a name, but no snapshot.
        await images.tag(image.id, "kept")
        stack.containerd.ctr("snapshots", "rm", image.chain_id, namespace=stack.namespace)
        assert "Committed" not in stack.left()["snapshots"]
        await images.ensure_unpacked(await images.resolve("kept"))
        assert image.chain_id in stack.left()["snapshots"]

    stack.run(work)


def test_reference_filter_shows_only_the_names_that_fit(stack: Stack) -> None:
    async def work(images: ImageService, registry: FakeRegistry) -> None:
        image = await pulled(images, registry, "filtered")
        for repository, tag in (("one", "1"), ("one", "2"), ("two", "1"), ("a/b/c", "1")):
            await images.tag(image.id, repository, tag)

        async def shown(*patterns: str) -> list[object]:
            return [item["RepoTags"] for item in await images.list({"reference": patterns})]

        assert await shown("one") == [["one:1", "one:2"]]
        assert await shown("*:1") == [["one:1", "two:1"]]
        assert await shown("one:2", "a/*/c") == [["a/b/c:1", "one:2"]]
        assert await shown("thr*") == []
        (item,) = await images.list({"reference": ["two"]})
        assert item["RepoDigests"] == [f"two@{image.target.digest}"]

    stack.run(work)
