"""`system df`: what images, containers and volumes take on the disk."""

from cutaway.cli import images, ps, units
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.table import Row, show
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cutaway.cli.flags import Values

HEADINGS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
VOLUME_HEADINGS = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
CACHE_HEADINGS = {
    "ID": "CACHE ID",
    "CacheType": "CACHE TYPE",
    "Size": "SIZE",
    "CreatedSince": "CREATED",
    "LastUsedSince": "LAST USED",
    "UsageCount": "USAGE",
    "Shared": "SHARED",
}


def run_disk_usage(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`system df`."""
    form = values.text("format")
    if values.on("verbose") and form:
        raise InvalidArgument("the verbose and the format options conflict")
    found = invocation.client.call("GET", "/system/df") or {}
    if values.on("verbose"):
        _details(found)
        return 0
    rows = [_images(found), _containers(found), _volumes(found), _cache(found)]
    show(rows, HEADINGS, list(HEADINGS), "{{json .}}" if form == "json" else form)
    return 0


def _row(kind: str, total: int, active: int, size: int, reclaimable: str) -> Row:
    return Row(
        {
            "Type": lambda: kind,
            "TotalCount": lambda: str(total),
            "Active": lambda: str(active),
            "Size": lambda: units.human_size(size, 4),
            "Reclaimable": lambda: reclaimable,
        }
    )


def _share(part: int, whole: int) -> str:
    text = units.human_size(part, 4)
    return f"{text} ({100 * part // whole}%)" if whole > 0 else text


def _images(found: "dict[str, Any]") -> Row:
    items, size = found.get("Images") or [], int(found.get("LayersSize") or 0)
    used = [item for item in items if item.get("Containers", 0) > 0]
    kept = sum(_size(item) - max(0, item.get("SharedSize", 0)) for item in used if _size(item) != -1)
    return _row("Images", len(items), len(used), size, _share(size - kept, size))


def _size(item: "dict[str, Any]") -> int:
    return int(item.get("VirtualSize") or item.get("Size") or 0)


def _containers(found: "dict[str, Any]") -> Row:
    items = found.get("Containers") or []
    active = [item for item in items if _is_active(item)]
    total = sum(int(item.get("SizeRw") or 0) for item in items)
    free = total - sum(int(item.get("SizeRw") or 0) for item in active)
    return _row("Containers", len(items), len(active), total, _share(free, total))


def _is_active(item: "dict[str, Any]") -> bool:
    return any(word in str(item.get("State") or "") for word in ("running", "paused", "restarting"))


def _volumes(found: "dict[str, Any]") -> Row:
    items = [item.get("UsageData") or {} for item in found.get("Volumes") or []]
    active = [item for item in items if int(item.get("RefCount") or 0) > 0]
    total = _sum(items)
    return _row("Local Volumes", len(items), len(active), total, _share(total - _sum(active), total))


def _sum(items: "Iterable[dict[str, Any]]") -> int:
    return sum(max(0, int(item.get("Size") or 0)) for item in items)


def _cache(found: "dict[str, Any]") -> Row:
    items = found.get("BuildCache") or []
    active = [item for item in items if item.get("InUse")]
    total = sum(int(item.get("Size") or 0) for item in items if not item.get("Shared"))
    kept = sum(int(item.get("Size") or 0) for item in active if not item.get("Shared"))
    return _row("Build Cache", len(items), len(active), total, units.human_size(total - kept, 4))


def _details(found: "dict[str, Any]") -> None:
    print("Images space usage:\n")
    rows = [row for item in found.get("Images") or [] for row in images.rows_of(item, False, False)[:1]]
    columns = [
        "Repository",
        "Tag",
        "ID",
        "CreatedSince",
        "VirtualSize",
        "SharedSize",
        "UniqueSize",
        "Containers",
    ]
    show(rows, images.HEADINGS, columns, "")
    print("\nContainers space usage:\n")
    rows = [ps.row_of({**item, "SizeRootFs": 0}, False) for item in found.get("Containers") or []]
    columns = ["ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"]
    show(rows, ps.HEADINGS, columns, "")
    print("\nLocal Volumes space usage:\n")
    show([_volume(item) for item in found.get("Volumes") or []], VOLUME_HEADINGS, list(VOLUME_HEADINGS), "")
    items = found.get("BuildCache") or []
    size = sum(int(item.get("Size") or 0) for item in items if not item.get("Shared"))
    print(f"\nBuild cache usage: {units.human_size(size, 4)}\n")
    show([], CACHE_HEADINGS, list(CACHE_HEADINGS), "")


def _volume(item: "dict[str, Any]") -> Row:
    usage = item.get("UsageData") or {}
    size = int(usage.get("Size", -1))
    return Row(
        {
            "Name": lambda: str(item.get("Name") or ""),
            "Links": lambda: str(usage.get("RefCount", "N/A")),
            "Size": lambda: "N/A" if size < 0 else units.human_size(size, 4),
        }
    )


DISK_USAGE = Command(
    run_disk_usage,
    "Show docker disk usage",
    flags=(
        Flag("format", "", "string", "Print each by a Go template; 'table TEMPLATE' with headings"),
        Flag("verbose", "v", "bool", "One line for each object"),
    ),
)
