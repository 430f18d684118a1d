"""What the prune requests of containers and images have in common, and POST /images/prune.

Source: moby's API description; the texts are Docker's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from cutaway.engine.api import body
from cutaway.engine.api.container_filters import label_matches
from cutaway.engine.api.keys import daemon_of
from cutaway.engine.images import Image
from cutaway.engine.images.remove import Removed
from cutaway.engine.timestamps import now_ns, parse
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound

_UNITS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|ms|s|m|h))+")
_BOOLEANS: Final = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


def routes() -> list[web.RouteDef]:
    """The routes, without version prefix."""
    return [web.post("/images/prune", prune_images), web.post("/build/prune", prune_build_cache)]


@dataclass(frozen=True)
class Conditions:
    """What is to be pruned at all: made before a time, with these labels and without those."""

    until_ns: int
    """0 for no limit."""
    labels: tuple[str, ...]
    without: tuple[str, ...]

    def meets(self, created_ns: int, labels: Mapping[str, str]) -> bool:
        """Whether an object of that time, with those labels, is."""
        if self.until_ns and created_ns > self.until_ns:
            return False
        if self.without and all(label_matches(labels, wanted) for wanted in self.without):
            return False
        return all(label_matches(labels, wanted) for wanted in self.labels)


def conditions(given: Mapping[str, list[str]], known: frozenset[str]) -> Conditions:
    """The conditions in a request's filters. Raises `InvalidArgument` for what is none."""
    for name in given:
        if name not in known:
            raise InvalidArgument(f"Invalid filter '{name}'")
    until = given.get("until", [])
    if len(until) > 1:
        raise InvalidArgument("more than one until filter specified")
    return Conditions(
        _moment(until[0]) if until else 0, tuple(given.get("label", ())), tuple(given.get("label!", ()))
    )


def _moment(text: str) -> int:
    """A time, or how long ago, in nanoseconds since the epoch."""
    if _DURATION.fullmatch(text):
        parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", text)
        return now_ns() - int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    try:
        return parse(text, "until")
    except InvalidArgument:
        raise InvalidArgument(f"failed to parse value as time or duration: {json.dumps(text[:64])}") from None


async def prune_images(request: web.Request) -> web.Response:
    """Remove images that no container uses: those without a name, with dangling=false all."""
    daemon, given = daemon_of(request), body.filters(request)
    wanted = conditions(given, frozenset({"dangling", "label", "label!", "until"}))
    only_dangling = _dangling(given.get("dangling", ["true"]))
    removed: Removed = []
    reclaimed = 0
    for image in await daemon.images.all():
        if (only_dangling and image.references) or daemon.image_users(image.id):
            continue
        if not wanted.meets(_created_ns(image), (image.config.config and image.config.config.labels) or {}):
            continue
        sizes = dict(zip(image.chain_ids, await daemon.images.layer_sizes(image), strict=True))
        try:
            steps = await daemon.images.remove(
                image.id,
                force=True,
                users=daemon.image_users,
                tell=lambda action, image_id: daemon.tell_image(action, image_id, {"name": image_id}),
            )
        except (FailedPrecondition, NotFound):
            continue  # taken, or removed, by somebody else meanwhile
        removed += steps
        reclaimed += sum(sizes.get(step.get("Deleted", ""), 0) for step in steps)
    return body.json_response({"ImagesDeleted": removed or None, "SpaceReclaimed": reclaimed})


def _created_ns(image: Image) -> int:
    try:
        return parse(image.created, "created")
    except InvalidArgument:
        return 0


def _dangling(values: list[str]) -> bool:
    found = [_BOOLEANS.get(value.lower()) for value in values]
    if None in found or not found:
        raise InvalidArgument(f"Invalid filter 'dangling=[{' '.join(values)}]'")
    return bool(found[0])


async def prune_build_cache(_: web.Request) -> web.Response:
    """Nothing is built here, so nothing is kept of builds."""
    return body.json_response({"CachesDeleted": None, "SpaceReclaimed": 0})
