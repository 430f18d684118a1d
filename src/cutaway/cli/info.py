"""`info`: what the daemon knows of itself and its machine."""

import sys

from cutaway.cli import units
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.template_functions import show
from cutaway.errors import CutawayError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values


def run_info(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`info`: the client's few lines come even when no daemon answers."""
    form = values.text("format")
    template = None
    if form and form != "json":
        from cutaway.cli.template import Template

        template = Template(form)
    if not form:
        print("Client:\n Context:    default\n Debug Mode: false\n\nServer:", flush=True)
    try:
        found = invocation.client.call("GET", "/info") or {}
    except CutawayError:
        if not form:
            print("ERROR: the daemon's half is missing", file=sys.stderr)
        raise
    if template is not None:
        print(template.render(found))
    elif form:
        from cutaway.cli import jsontext

        print(jsontext.dumps(found))
    else:
        for line in lines_of(found):
            print(f" {line}")
        print()
        for warning in found.get("Warnings") or []:
            print(warning, file=sys.stderr)
    return 0


def lines_of(info: "dict[str, Any]") -> list[str]:
    """The server's half, in docker's order."""
    plugins = info.get("Plugins") or {}
    return [
        f"Containers: {show(info.get('Containers', 0))}",
        f" Running: {show(info.get('ContainersRunning', 0))}",
        f" Paused: {show(info.get('ContainersPaused', 0))}",
        f" Stopped: {show(info.get('ContainersStopped', 0))}",
        f"Images: {show(info.get('Images', 0))}",
        *_present(info, (("Server Version", "ServerVersion"), ("Storage Driver", "Driver"))),
        *[f" {pair[0]}: {pair[1]}" for pair in info.get("DriverStatus") or [] if len(pair) == 2],
        *_present(
            info,
            (
                ("Logging Driver", "LoggingDriver"),
                ("Cgroup Driver", "CgroupDriver"),
                ("Cgroup Version", "CgroupVersion"),
            ),
        ),
        "Plugins:",
        *[
            f" {kind}: {' '.join(plugins[kind])}"
            for kind in ("Volume", "Network", "Log")
            if plugins.get(kind)
        ],
        *_present(info, (("Swarm", "Swarm"),), swarm=True),
        f"Runtimes: {' '.join(sorted(info.get('Runtimes') or {}))}",
        *_present(info, (("Default Runtime", "DefaultRuntime"), ("Init Binary", "InitBinary"))),
        *[
            f"{title} version: {(info.get(key) or {}).get('ID', '')}"
            for title, key in (
                ("containerd", "ContainerdCommit"),
                ("runc", "RuncCommit"),
                ("init", "InitCommit"),
            )
        ],
        *_security(info.get("SecurityOptions") or []),
        *_present(
            info,
            (
                ("Kernel Version", "KernelVersion"),
                ("Operating System", "OperatingSystem"),
                ("OSType", "OSType"),
                ("Architecture", "Architecture"),
                ("CPUs", "NCPU"),
            ),
        ),
        f"Total Memory: {units.binary_size(info.get('MemTotal') or 0)}",
        *_present(info, (("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir"))),
        f"Debug Mode: {show(info.get('Debug', False))}",
        *_present(info, (("Registry", "IndexServerAddress"),)),
        "Labels:",
        *[f" {label}" for label in info.get("Labels") or []],
        f"Experimental: {show(info.get('ExperimentalBuild', False))}",
        "Insecure Registries:",
        *[f" {block}" for block in (info.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or []],
        f"Live Restore Enabled: {show(info.get('LiveRestoreEnabled', False))}",
    ]


def _present(
    info: "dict[str, Any]", rows: "tuple[tuple[str, str], ...]", *, swarm: bool = False
) -> list[str]:
    """Lines for the keys that there are."""
    if swarm:
        state = (info.get("Swarm") or {}).get("LocalNodeState")
        return [f"Swarm: {state}"] if state else []
    return [f"{title}: {show(info[key])}" for title, key in rows if info.get(key) not in (None, "")]


def _security(options: list[str]) -> list[str]:
    """`name=seccomp,profile=default` as a name with its values below it."""
    lines = ["Security Options:"] if options else []
    for option in options:
        values = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f" {values.pop('name', option)}")
        lines += [f"  {key.capitalize()}: {value}" for key, value in values.items()]
    return lines


INFO = Command(
    run_info,
    "Display system-wide information",
    flags=(Flag("format", "f", "string", "Print by a Go template, or 'json'"),),
)
