"""Removing images by Docker's rules: what only untags, what deletes, and what stands in the way.

By name: the name goes; the image goes with its last one. Its last name is refused (without force) while
any container uses the image; by force it goes, and the image stays without one while a container runs.
By ID: all names of one repository go and the image with them; an image with names in several repositories
needs force. A running container is an obstacle that force does not move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cutaway import errors
from cutaway.engine.images.model import DANGLING, Image
from cutaway.engine.images.store import ImageStore
from cutaway.registry import reference
from cutaway.registry.reference import is_id_prefix

SHORT: Final = 12


@dataclass(frozen=True)
class User:
    """A container that was made from an image."""

    id: str
    running: bool


Users = Callable[[str], list[User]]
"""The containers that use the image of an ID."""

Untagged = Callable[[str, str], None]
"""Told of each step as ("untag" or "delete", image ID), for the event stream."""

Removed = list[dict[str, str]]


class Remover:
    """Removes images."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def remove(self, text: str, *, force: bool, users: Users, tell: Untagged) -> Removed:
        """Remove what a person means by `text`; return Docker's list of what was untagged and deleted.

        Raises `NotFound`, or `FailedPrecondition` with Docker's text for a conflict.
        """
        named = await self._store.find(text)
        image = await self._store.with_id(named.id) or named
        if _is_id(text, image):
            return await self._by_id(image, force, users, tell)
        return await self._by_name(text, image, force, users, tell)

    async def _by_name(self, text: str, image: Image, force: bool, users: Users, tell: Untagged) -> Removed:
        wanted = reference.parse(text).with_default_tag()
        name = str(wanted.with_digest(wanted.digest) if wanted.digest else wanted)
        names = [name] if name in image.names else _names_by_digest(image, wanted.familiar)
        others = [str(entry) for entry in image.references if str(entry) not in names]
        if not others and not force and (using := users(image.id)):
            raise errors.FailedPrecondition(
                f'conflict: unable to remove repository reference "{text}" (must force) - container '
                f"{using[0].id[:SHORT]} is using its referenced image {image.short_id}"
            )
        if not others and any(user.running for user in users(image.id)):
            # By force the name goes, but not what runs from it.
            await self._store.keep_dangling(image)
            return await self._delete(image, names, [DANGLING], tell)
        if not others:
            # A name that was given for the lack of any other goes with the last of the others.
            names += [entry for entry in image.names if entry not in names]
        return await self._delete(image, names, others, tell)

    async def _by_id(self, image: Image, force: bool, users: Users, tell: Untagged) -> Removed:
        _check_running(image, users)
        repositories = {entry.name for entry in image.references}
        if not force and (len(repositories) > 1 or len(image.repo_tags) > 1):
            raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
        if not force and (using := users(image.id)):
            raise _conflict(
                image, "must be forced", f"image is being used by stopped container {using[0].id[:SHORT]}"
            )
        return await self._delete(image, list(image.names), [], tell)

    async def _delete(self, image: Image, names: list[str], others: list[str], tell: Untagged) -> Removed:
        """Take names from an image, and with its last one what only it is made of."""
        removed: Removed = []
        kept = [] if others else await self._chains_of_others(image)
        for name in names:
            last = not others and name == names[-1]
            await self._store.delete(name, sync=last)
            removed += [{"Untagged": text} for text in _told(image, name, names, others)]
            tell("untag", image.id)
        if not others:
            removed.append({"Deleted": image.id})
            gone = [chain_id for chain_id in reversed(image.chain_ids) if chain_id not in kept]
            removed += [{"Deleted": chain_id} for chain_id in gone]
            tell("delete", image.id)
        return removed

    async def _chains_of_others(self, image: Image) -> set[str]:
        images = await self._store.images()
        return {chain_id for other in images if other.id != image.id for chain_id in other.chain_ids}


def _is_id(text: str, image: Image) -> bool:
    digits = text.removeprefix("sha256:")
    same = image.id.startswith(f"sha256:{digits}") or image.target.digest == f"sha256:{digits}"
    return is_id_prefix(text) and same


def _names_by_digest(image: Image, familiar: str) -> list[str]:
    """The names that a `name@digest` stands for when no such name is stored."""
    path = familiar.partition("@")[0]
    return [str(entry) for entry in image.references if entry.familiar_name == path]


def _told(image: Image, name: str, names: list[str], others: list[str]) -> list[str]:
    """What a name that was removed is called; the last of its repository takes the digest along."""
    entry = next((entry for entry in image.references if str(entry) == name), None)
    if entry is None:
        return []
    rest = [*others, *names[names.index(name) + 1 :]]
    if any(other.rpartition(":")[0] == entry.name for other in rest):
        return [entry.familiar]
    digest = f"{entry.familiar_name}@{image.target.digest}"
    return [entry.familiar] if entry.digest else [entry.familiar, digest]


def _check_running(image: Image, users: Users) -> None:
    if running := [user for user in users(image.id) if user.running]:
        raise _conflict(
            image, "cannot be forced", f"image is being used by running container {running[0].id[:SHORT]}"
        )


def _conflict(image: Image, how: str, why: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(f"conflict: unable to delete {image.short_id} ({how}) - {why}")
