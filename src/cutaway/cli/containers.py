"""Small questions about one container: port, rename, top."""

from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.lifecycle import container_path
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values


CHANGES = "CAD"  # by the API's number for the kind


def inspected(client: "Client", name: str) -> "dict[str, Any]":
    """The container's details. Raises `NotFound` with docker's words."""
    found = client.call("GET", f"{container_path(name)}/json", missing=f"container: {name}")
    return found if isinstance(found, dict) else {}


def run_port(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`port CONTAINER [PORT[/PROTOCOL]]`: all published ports, or where one is."""
    details = inspected(invocation.client, arguments[0])
    ports = (details.get("NetworkSettings") or {}).get("Ports") or {}
    if len(arguments) == 1:
        for port in sorted(ports):
            for binding in ports[port] or []:
                print(f"{port} -> {_address(binding)}")
        return 0
    port, _, protocol = arguments[1].partition("/")
    if not port.isdecimal():
        raise InvalidArgument(f"Invalid port: {port}")
    wanted = f"{port}/{protocol or 'tcp'}"
    bindings = ports.get(wanted) or []
    if not bindings:
        raise NotFound(f"Error: No public port '{wanted}' published for {arguments[0]}")
    for binding in bindings:
        print(_address(binding))
    return 0


def _address(binding: "dict[str, Any]") -> str:
    return f"{binding.get('HostIp', '')}:{binding.get('HostPort', '')}"


def run_rename(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`rename CONTAINER NAME`."""
    old, new = arguments[0].strip(), arguments[1].strip()
    if not old or not new:
        raise InvalidArgument("Error: Neither old nor new names may be empty")
    try:
        invocation.client.call("POST", f"{container_path(old)}/rename", {"name": new})
    except Unavailable:
        raise
    except CutawayError as error:
        raise FailedPrecondition(f"{error.message}\nError: failed to rename container named {old}") from None
    return 0


def run_top(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`top CONTAINER [ps OPTIONS]`."""
    query = {"ps_args": " ".join(arguments[1:])} if len(arguments) > 1 else {}
    found = invocation.client.call("GET", f"{container_path(arguments[0])}/top", query)
    rows = [found.get("Titles") or [], *(found.get("Processes") or [])]
    widths = [
        max([20, *(len(row[index]) + 3 for row in rows if index < len(row))]) for index in range(len(rows[0]))
    ]
    for row in rows:
        cells = [str(cell).ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        print("".join([*cells, *row[-1:]]))
    return 0


def run_diff(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`diff CONTAINER`: C for changed, A for added, D for deleted."""
    if not arguments[0]:
        raise InvalidArgument("Container name cannot be empty")
    found = invocation.client.call("GET", f"{container_path(arguments[0])}/changes") or []
    for change in found:
        kind = change.get("Kind")
        letter = CHANGES[kind] if kind in range(len(CHANGES)) else ""
        print(f"{letter} {change.get('Path') or ''}")
    return 0


PORT = Command(
    run_port,
    "List port mappings or a specific mapping for the container",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    least=1,
    most=2,
)
DIFF = Command(
    run_diff,
    "Inspect changes to files or directories on a container's filesystem",
    "CONTAINER",
    least=1,
    most=1,
)
RENAME = Command(run_rename, "Rename a container", "CONTAINER NEW_NAME", least=2, most=2)
TOP = Command(
    run_top,
    "Display the running processes of a container",
    "CONTAINER [ps OPTIONS]",
    least=1,
    most=UNLIMITED,
    interspersed=False,
)
