"""`version`: the client's and the daemon's, part by part."""

import sys

from cutaway import __version__
from cutaway.cli.client import MAX_VERSION
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.errors import CutawayError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

_TITLES = {
    "ApiVersion": "API version",
    "MinAPIVersion": "Minimum API version",
    "GoVersion": "Go version",
    "PythonVersion": "Python version",
    "GitCommit": "Git commit",
    "BuildTime": "Built",
}


def run_version(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`version`: what can be said of the client is said even when no daemon answers."""
    form = values.text("format")
    template = None
    if form and form != "json":
        from cutaway.cli.template import Template

        template = Template(form)
    server, problem = _server(invocation)
    everything = {"Client": client_facts(invocation.client.version), "Server": server}
    if template is not None:
        if problem is not None and "Server" in form:
            raise problem
        print(template.render(everything))
    elif form:
        from cutaway.cli import jsontext

        print(jsontext.dumps(everything))
    else:
        _show(everything)
    if problem is not None:
        sys.stdout.flush()
        raise problem
    return 0


def _server(invocation: Invocation) -> "tuple[Any, CutawayError | None]":
    try:
        return invocation.client.call("GET", "/version"), None
    except CutawayError as error:
        return None, error


def client_facts(negotiated: str) -> "dict[str, Any]":
    """The client's half."""
    machine = _machine()
    python = ".".join(str(part) for part in sys.version_info[:3])
    newest = ".".join(map(str, MAX_VERSION))
    return {
        "Platform": {"Name": ""},
        "Version": __version__,
        "ApiVersion": negotiated or newest,
        "DefaultAPIVersion": newest,
        "GitCommit": "",
        "PythonVersion": python,
        "Os": "linux",
        "Arch": machine,
        "BuildTime": "",
        "Context": "default",
    }


def _machine() -> str:
    import os

    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _show(everything: "dict[str, Any]") -> None:
    client = everything["Client"]
    rows = [
        ("Version", client["Version"]),
        ("API version", client["ApiVersion"]),
        ("Python version", client["PythonVersion"]),
        ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
        ("Context", client["Context"]),
    ]
    print("Client: Cutaway")
    _rows(rows, 1)
    server = everything["Server"]
    if not server:
        return
    platform = (server.get("Platform") or {}).get("Name") or ""
    print(f"\nServer: {platform}".rstrip())
    for component in server.get("Components") or []:
        print(f" {component.get('Name', '')}:")
        _rows(_component(component), 2)


def _component(component: "dict[str, Any]") -> list[tuple[str, str]]:
    details: dict[str, Any] = component.get("Details") or {}
    rows = [("Version", str(component.get("Version", "")))]
    if component.get("Name") != "Engine":
        return rows + [(key, str(details[key])) for key in sorted(details)]
    version = f"{details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})"
    rows.append(("API version", version))
    for key in ("GoVersion", "PythonVersion", "GitCommit", "BuildTime"):
        if details.get(key):
            rows.append((_TITLES[key], _built(details[key]) if key == "BuildTime" else str(details[key])))
    rows.append(("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"))
    rows.append(("Experimental", str(details.get("Experimental", "false"))))
    return rows


def _built(text: str) -> str:
    """`2026-05-07T21:09:36.0Z` as `Thu May  7 21:09:36 2026`; anything else as it stands."""
    import time  # not strptime: 10 ms of imports for the only date of the whole command

    year, month, day, rest = text[:4], text[5:7], text[8:10], text[11:19]
    if not (year + month + day).isdecimal() or len(rest) != 8:
        return text
    noon = (int(year), int(month), int(day), 12, 0, 0, 0, 0, -1)
    return time.strftime(f"%a %b %e {rest} %Y", time.localtime(time.mktime(noon)))


def _rows(rows: list[tuple[str, str]], indent: int) -> None:
    for title, value in rows:
        print(f"{' ' * indent}{title + ':':{20 - indent}}{value}")


VERSION = Command(
    run_version,
    "Show the version information of all parts",
    flags=(Flag("format", "f", "string", "Print by a Go template, or 'json'"),),
)
