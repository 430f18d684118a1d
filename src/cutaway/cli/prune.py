"""`container prune`, `image prune`, `volume prune`, `system prune`."""

import sys

from cutaway.cli import units
from cutaway.cli.command import Command, Invocation
from cutaway.cli.filters import filters
from cutaway.cli.flags import Flag
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values

DANGLING = "all dangling images"
UNUSED = "all images without at least one container associated to them"
VOLUMES = "all local volumes not used by at least one container"


def run_containers(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`container prune`."""
    if not _agreed(values, "This will remove all stopped containers."):
        return 0
    return _report(containers(invocation.client, values.texts("filter")))


def run_images(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`image prune`."""
    everything = values.on("all")
    if not _agreed(values, f"This will remove {UNUSED if everything else DANGLING}."):
        return 0
    return _report(images(invocation.client, values.texts("filter"), everything=everything))


def run_volumes(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`volume prune`: those without a name, with --all the others as well."""
    given = values.texts("filter") + (["all=true"] if values.on("all") else [])
    if not _agreed(values, f"This will remove {VOLUMES}."):
        return 0
    return _report(volumes(invocation.client, given))


def run_system(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`system prune`: everything that is in no use."""
    given, everything = values.texts("filter"), values.on("all")
    with_volumes = values.on("volumes")
    if with_volumes and any(item.startswith("until=") for item in given):
        raise InvalidArgument('ERROR: The "until" filter is not supported with "--volumes"')
    if not _agreed(values, _warning(everything, with_volumes, given), blank=True):
        return 0
    client = invocation.client
    steps = [containers(client, given), networks(client, given)]
    if with_volumes:
        steps.append(volumes(client, [item for item in given if not item.startswith("until=")]))
    steps.append(images(client, given, everything=everything))
    steps.append(_build_cache(client, given, everything=everything))
    for _, text in steps:
        if text:
            print(text)
    print(f"Total reclaimed space: {units.human_size(sum(size for size, _ in steps), 4)}")
    return 0


def _warning(everything: bool, with_volumes: bool, given: list[str]) -> str:
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if with_volumes:
        lines.append("all volumes not used by at least one container")
    lines += [UNUSED, "all build cache"] if everything else [DANGLING, "all dangling build cache"]
    text = "This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    if given:
        text += "\n  Items to be pruned will be filtered with:\n"
        text += "".join(f"  - {item}\n" for item in given)
    return text


def _agreed(values: "Values", warning: str, *, blank: bool = False) -> bool:
    """Ask on the terminal, unless --force is there; no answer is no."""
    if values.on("force"):
        return True
    print(f"WARNING! {warning}")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    agreed = sys.stdin.readline().strip().lower() == "y"
    if not agreed and not blank:
        print("Total reclaimed space: 0B")
    return agreed


def _report(done: "tuple[int, str]") -> int:
    size, text = done
    if text:
        print(text)
    print(f"Total reclaimed space: {units.human_size(size, 4)}")
    return 0


def containers(client: "Client", given: list[str]) -> "tuple[int, str]":
    """Bytes that were given back, and what to tell of it."""
    answer = _prune(client, "containers", given)
    return _told(answer, "Deleted Containers:", answer.get("ContainersDeleted") or [])


def images(client: "Client", given: list[str], *, everything: bool) -> "tuple[int, str]":
    """See `containers`."""
    answer = _prune(client, "images", [*given, f"dangling={'false' if everything else 'true'}"])
    lines = [
        f"{key.lower()}: {value}"
        for entry in answer.get("ImagesDeleted") or []
        for key, value in sorted(entry.items(), reverse=True)
    ]
    return _told(answer, "Deleted Images:", lines)


def volumes(client: "Client", given: list[str]) -> "tuple[int, str]":
    """See `containers`."""
    answer = _prune(client, "volumes", given)
    return _told(answer, "Deleted Volumes:", answer.get("VolumesDeleted") or [])


def networks(client: "Client", given: list[str]) -> "tuple[int, str]":
    """See `containers`."""
    answer = _prune(client, "networks", given)
    return _told(answer, "Deleted Networks:", answer.get("NetworksDeleted") or [])


def _build_cache(client: "Client", given: list[str], *, everything: bool) -> "tuple[int, str]":
    query = filters(given) | ({"all": "1"} if everything else {})
    answer = client.call("POST", "/build/prune", query) or {}
    return _told(answer, "Deleted build cache objects:", answer.get("CachesDeleted") or [])


def _prune(client: "Client", what: str, given: list[str]) -> "dict[str, Any]":
    return client.call("POST", f"/{what}/prune", filters(given)) or {}


def _told(answer: "dict[str, Any]", title: str, lines: list[str]) -> "tuple[int, str]":
    text = "\n".join([title, *lines, ""]) if lines else ""
    return int(answer.get("SpaceReclaimed") or 0), text


_FORCE = Flag("force", "f", "bool", "Do not ask")
_FILTER = Flag("filter", "", "filter", "Only those that meet a condition (until=TIME, label=KEY[=VALUE])")
CONTAINERS = Command(run_containers, "Remove all stopped containers", flags=(_FILTER, _FORCE))
IMAGES = Command(
    run_images,
    "Remove unused images",
    flags=(Flag("all", "a", "bool", "Also those with a name"), _FILTER, _FORCE),
)
VOLUMES_COMMAND = Command(
    run_volumes,
    "Remove all unused local volumes",
    flags=(Flag("all", "a", "bool", "Also those with a name"), _FILTER, _FORCE),
)
SYSTEM = Command(
    run_system,
    "Remove unused data",
    flags=(
        Flag("all", "a", "bool", "All unused images, not only dangling ones"),
        _FILTER,
        _FORCE,
        Flag("volumes", "", "bool", "Volumes as well"),
    ),
)
