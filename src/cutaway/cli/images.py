"""`images`, `rmi`, `tag`."""

import sys

from cutaway.cli import units
from cutaway.cli.client import path_segment
from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.filters import filters
from cutaway.cli.flags import Flag
from cutaway.cli.table import Row, show
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unavailable
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

NONE = "<none>"
HEADINGS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}


def run_images(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`images [REPOSITORY[:TAG]]`."""
    wanted = [f"reference={name}" for name in arguments]
    query = filters(values.texts("filter") + wanted)
    if values.on("all"):
        query["all"] = "1"
    found = invocation.client.call("GET", "/images/json", query) or []
    form, whole, digests = values.text("format"), values.on("no-trunc"), values.on("digests")
    rows = [row for item in found for row in rows_of(item, whole, digests or ".Digest" in form)]
    if values.on("quiet") and not form:
        for row in rows:
            print(row.field("ID"))
        return 0
    columns = ["Repository", "Tag", *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
    show(rows, HEADINGS, columns, "{{json .}}" if form == "json" else form)
    return 0


def rows_of(item: "dict[str, Any]", whole: bool, digests: bool) -> list[Row]:
    """A row for every tag of an image; with `digests` also for every digest; one of <none> without both."""
    names = _names(item.get("RepoTags") or [], item.get("RepoDigests") or [], digests)
    return [_row(item, whole, *name) for name in names]


def _names(tags: list[str], known: list[str], digests: bool) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    by_repository = {name: digest for name, _, digest in (entry.partition("@") for entry in known)}
    tagged = set()
    for entry in tags:
        repository, _, tag = entry.rpartition(":")
        if entry == f"{NONE}:{NONE}":
            continue
        tagged.add(repository)
        found.append((repository, tag, by_repository.get(repository, NONE) if digests else NONE))
    for repository, digest in by_repository.items():
        if repository not in tagged and repository != NONE:
            found.append((repository, NONE, digest))
    return found or [(NONE, NONE, NONE)]


def _row(item: "dict[str, Any]", whole: bool, repository: str, tag: str, digest: str) -> Row:
    identity, created = str(item.get("Id") or ""), int(item.get("Created") or 0)
    size = item.get("Size") or 0
    return Row(
        {
            "Repository": lambda: repository,
            "Tag": lambda: tag,
            "Digest": lambda: digest,
            "ID": lambda: identity if whole else units.short_id(identity),
            "CreatedSince": lambda: units.ago(created),
            "CreatedAt": lambda: units.local_time(created),
            "Size": lambda: units.human_size(size),
            "Containers": lambda: _count(item.get("Containers", -1)),
            "VirtualSize": lambda: units.human_size(item.get("VirtualSize") or size, 4),
            "SharedSize": lambda: _bytes(item.get("SharedSize", -1)),
            "UniqueSize": lambda: _bytes(
                size - item["SharedSize"] if item.get("SharedSize", -1) >= 0 else -1
            ),
        }
    )


def _count(number: int) -> str:
    return "N/A" if number < 0 else str(number)


def _bytes(number: int) -> str:
    return "N/A" if number < 0 else units.human_size(number, 4)


def run_rmi(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`rmi IMAGE...`: prints what was untagged and deleted."""
    query = {"force": "1"} if values.on("force") else {}
    if values.on("no-prune"):
        query["noprune"] = "1"
    refusals: list[CutawayError] = []
    for name in arguments:
        try:
            _check_name(name)
            removed = invocation.client.call(
                "DELETE", f"/images/{path_segment(name)}", query, missing=f"image: {name}"
            )
        except Unavailable:
            raise
        except CutawayError as error:
            refusals.append(error)
            continue
        for entry in removed or []:
            print("\n".join(f"{key}: {value}" for key, value in sorted(entry.items(), reverse=True)))
    for refusal in refusals:
        print(refusal.message, file=sys.stderr)
    harmless = values.on("force") and all(isinstance(refusal, NotFound) for refusal in refusals)
    return 1 if refusals and not harmless else 0


def _check_name(name: str) -> None:
    if not name.strip():
        raise NotFound(f"Error: No such image: {name}")


def run_tag(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`tag SOURCE TARGET`."""
    source, target = arguments
    try:
        wanted = reference.parse(target)
    except InvalidArgument as error:
        raise InvalidArgument(
            f'Error parsing reference: "{target}" is not a valid repository/tag: {error}'
        ) from None
    if wanted.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    query = {"repo": wanted.familiar_name, "tag": wanted.with_default_tag().tag}
    invocation.client.call("POST", f"/images/{path_segment(source)}/tag", query)
    return 0


IMAGES = Command(
    run_images,
    "List images",
    "[REPOSITORY[:TAG]]",
    most=1,
    flags=(
        Flag("all", "a", "bool", "Show intermediate images too"),
        Flag("digests", "", "bool", "Show digests"),
        Flag("filter", "f", "filter", "Show only those that meet a condition (name=value)"),
        Flag("format", "", "string", "Print each by a Go template; 'table TEMPLATE' with headings"),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("quiet", "q", "bool", "Print IDs only"),
    ),
)
RMI = Command(
    run_rmi,
    "Remove one or more images",
    "IMAGE [IMAGE...]",
    least=1,
    most=UNLIMITED,
    flags=(
        Flag("force", "f", "bool", "Also if something still refers to it"),
        Flag("no-prune", "", "bool", "Keep parents without a tag"),
    ),
)
TAG = Command(
    run_tag,
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    least=2,
    most=2,
)
