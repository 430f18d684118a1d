"""The filters of `docker ps` and `docker container prune`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cutaway.engine.api import body
from cutaway.engine.containers.index import ContainerIndex
from cutaway.engine.containers.model import Container, Status
from cutaway.errors import InvalidArgument

_KNOWN: Final = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
_Test = Callable[[Container, str], bool]


def select(
    index: ContainerIndex, given: Mapping[str, list[str]], *, everything: bool, limit: int
) -> list[Container]:
    """Matching containers, newest first; those that do not run only if asked for, or filtered by state."""
    body.check_filters(given, _KNOWN)
    _check_values(given)
    found = sorted(index, key=lambda container: container.created_ns, reverse=True)
    found = list(_bounded(index, found, given))
    if not everything and limit <= 0 and not ({"status", "exited"} & given.keys()):
        found = [container for container in found if container.state.is_active]
    matching = [container for container in found if matches(container, given)]
    return matching[:limit] if limit > 0 else matching


def matches(container: Container, given: Mapping[str, list[str]]) -> bool:
    """Whether it passes every filter; of the values of one filter, one is enough (labels: all)."""
    for key, values in given.items():
        test = _TESTS.get(key)
        if test is None:
            continue
        tried = (test(container, value) for value in values)
        if not (all(tried) if key == "label" else any(tried)):
            return False
    return True


def _check_values(given: Mapping[str, list[str]]) -> None:
    for value in given.get("status", []):
        if value not in list(Status):
            raise InvalidArgument(
                f"invalid filter 'status={value}': invalid value for state ({value}): "
                f"must be one of {', '.join(Status)}"
            )
    for value in given.get("exited", []):
        if not value.lstrip("-").isdecimal():
            raise InvalidArgument(f"invalid filter 'exited={value}': not a number")


def _bounded(
    index: ContainerIndex, found: Iterable[Container], given: Mapping[str, list[str]]
) -> Iterable[Container]:
    """`before` and `since` another container. Raises `NotFound` for one that is not there."""
    latest = [index.get(value).created_ns for value in given.get("before", [])]
    earliest = [index.get(value).created_ns for value in given.get("since", [])]
    for container in found:
        made = container.created_ns
        if all(made < bound for bound in latest) and all(made > bound for bound in earliest):
            yield container


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _name(container: Container, value: str) -> bool:
    try:
        pattern = re.compile(value)
    except re.error:
        return value in container.name
    return bool(pattern.search(container.name) or pattern.search(f"/{container.name}"))


def _ancestor(container: Container, value: str) -> bool:
    image = container.image
    bare = value if ":" in value.rpartition("/")[2] or "@" in value else f"{value}:latest"
    digest = container.image_id.removeprefix("sha256:")
    return (
        value == image
        or bare in (image, f"{image}:latest")
        or (len(value) > 5 and digest.startswith(value.removeprefix("sha256:")))
    )


def _exited(container: Container, value: str) -> bool:
    return container.state.status is Status.EXITED and container.state.exit_code == int(value)


def _volume(container: Container, value: str) -> bool:
    return any(value in (point.name, point.destination, point.source) for point in container.mounts)


def _network(container: Container, value: str) -> bool:
    mode = container.host.network_mode
    return value == ("bridge" if mode == "default" else mode)


def _port(container: Container, value: str) -> bool:
    number, _, protocol = value.partition("/")
    wanted = f"{number}/{protocol or 'tcp'}"
    return wanted in (container.host.port_bindings or {}) or wanted in (container.config.exposed_ports or {})


_TESTS: Final[dict[str, _Test]] = {
    "ancestor": _ancestor,
    "exited": _exited,
    "expose": _port,
    "health": lambda container, value: value == "none",
    "id": lambda container, value: container.id.startswith(value),
    "is-task": lambda container, value: value in ("0", "false"),
    "isolation": lambda container, value: value in ("", "default"),
    "label": lambda container, value: label_matches(container.config.labels or {}, value),
    "name": _name,
    "network": _network,
    "publish": _port,
    "status": lambda container, value: container.state.status == value,
    "volume": _volume,
}
