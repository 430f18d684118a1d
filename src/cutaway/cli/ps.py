"""`ps`: the list of containers."""

from cutaway.cli import units
from cutaway.cli.command import Command, Invocation
from cutaway.cli.filters import filters
from cutaway.cli.flags import Flag
from cutaway.cli.table import Row, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

HEADINGS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "State": "STATE",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
}
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def run_ps(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`ps`: running containers, or all with -a."""
    form = values.text("format")
    query = filters(values.texts("filter"))
    limit = 1 if values.on("latest") else values.number("last")
    if values.on("all") or limit > 0:
        query["all"] = "1"
    if limit > 0:
        query["limit"] = str(limit)
    sized = values.on("size") or ".Size" in form or "json" in form
    if sized:
        query["size"] = "1"
    found = invocation.client.call("GET", "/containers/json", query) or []
    whole = values.on("no-trunc")
    rows = [row_of(item, whole) for item in found]
    if values.on("quiet") and not form:
        for row in rows:
            print(row.field("ID"))
        return 0
    columns = (*COLUMNS, "Size") if values.on("size") else COLUMNS
    show(rows, HEADINGS, columns, "{{json .}}" if form == "json" else form)
    return 0


def row_of(item: "dict[str, Any]", whole: bool) -> Row:
    """What a template may ask of one container."""
    identity = str(item.get("Id") or "")
    labels: dict[str, str] = item.get("Labels") or {}
    created = int(item.get("Created") or 0)
    mounts = item.get("Mounts") or []
    networks = ((item.get("NetworkSettings") or {}).get("Networks")) or {}
    return Row(
        {
            "ID": lambda: identity if whole else units.short_id(identity),
            "Image": lambda: _image(item, whole),
            "Command": lambda: _command(str(item.get("Command") or ""), whole),
            "CreatedAt": lambda: units.local_time(created),
            "RunningFor": lambda: units.ago(created),
            "State": lambda: str(item.get("State") or ""),
            "Status": lambda: str(item.get("Status") or ""),
            "Ports": lambda: ports(item.get("Ports") or []),
            "Names": lambda: _names(item.get("Names") or [], whole),
            "Size": lambda: _size(item),
            "Labels": lambda: ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
            "Mounts": lambda: ",".join(_mount(mount, whole) for mount in mounts),
            "LocalVolumes": lambda: str(sum(mount.get("Driver") == "local" for mount in mounts)),
            "Networks": lambda: ",".join(networks),
        },
        {"Label": lambda name: labels.get(name, "")},
    )


def _image(item: "dict[str, Any]", whole: bool) -> str:
    image = str(item.get("Image") or "")
    if not image:
        return "<no image>"
    return image if whole or not image.startswith("sha256:") else units.short_id(image)


def _command(text: str, whole: bool) -> str:
    shown = text if whole else units.shorten(text, 20)
    return (
        '"' + shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'
    )


def _names(names: list[str], whole: bool) -> str:
    """Names without their slash; those that links have given it (`/other/name`) only in full lists."""
    plain = [name.removeprefix("/") for name in names]
    return ",".join(plain if whole else [name for name in plain if "/" not in name])


def _size(item: "dict[str, Any]") -> str:
    text = units.human_size(item.get("SizeRw") or 0)
    virtual = item.get("SizeRootFs") or 0
    return f"{text} (virtual {units.human_size(virtual)})" if virtual else text


def _mount(mount: "dict[str, Any]", whole: bool) -> str:
    text = str(mount.get("Name") or mount.get("Source") or "")
    return text if whole else units.shorten(text, 15)


def ports(items: "list[dict[str, Any]]") -> str:
    """`0.0.0.0:8080->80/tcp, 9000/tcp`: published ones first, runs of ports as ranges."""
    groups: dict[tuple[str, str, bool], list[tuple[int, int]]] = {}
    ordered = sorted(
        items,
        key=lambda p: (p.get("PrivatePort", 0), p.get("IP", ""), p.get("PublicPort", 0), p.get("Type", "")),
    )
    single: list[str] = []
    for port in ordered:
        private, public = int(port.get("PrivatePort") or 0), int(port.get("PublicPort") or 0)
        address, protocol = str(port.get("IP") or ""), str(port.get("Type") or "tcp")
        if public and public != private:
            single.append(f"{address}:{public}->{private}/{protocol}")
        else:
            groups.setdefault((address, protocol, bool(public)), []).append((private, public))
    ranges = [
        _range(address, protocol, published, start, end)
        for (address, protocol, published), numbers in groups.items()
        for start, end in _runs([private for private, _ in numbers])
    ]
    return ", ".join([*ranges, *single])


def _range(address: str, protocol: str, published: bool, start: int, end: int) -> str:
    span = f"{start}" if start == end else f"{start}-{end}"
    return f"{address}:{span}->{span}/{protocol}" if published else f"{span}/{protocol}"


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


PS = Command(
    run_ps,
    "List containers",
    flags=(
        Flag("all", "a", "bool", "Show stopped ones too"),
        Flag("filter", "f", "filter", "Show only those that meet a condition (name=value)"),
        Flag("format", "", "string", "Print each by a Go template; 'table TEMPLATE' with headings"),
        Flag("last", "n", "int", "Show the last n created", "-1"),
        Flag("latest", "l", "bool", "Show the last created"),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("quiet", "q", "bool", "Print IDs only"),
        Flag("size", "s", "bool", "Show sizes"),
    ),
)
