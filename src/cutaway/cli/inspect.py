"""`inspect`: everything the daemon says of containers and images, as JSON or by a template."""

import sys

from cutaway.cli import jsontext
from cutaway.cli.client import path_segment
from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.lifecycle import container_path
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values

    Find = Callable[[Client, str, dict[str, str]], Any]


def _container(client: "Client", name: str, query: dict[str, str]) -> "Any":
    return client.call("GET", f"{container_path(name)}/json", query, missing=f"container: {name}")


def _image(client: "Client", name: str, query: dict[str, str]) -> "Any":
    return client.call("GET", f"/images/{path_segment(name)}/json", missing=f"image: {name}")


def _network(client: "Client", name: str, query: dict[str, str]) -> "Any":
    return client.call("GET", f"/networks/{path_segment(name)}", missing=f"network: {name}")


def _volume(client: "Client", name: str, query: dict[str, str]) -> "Any":
    return client.call("GET", f"/volumes/{path_segment(name)}", missing=f"volume: {name}")


KINDS: "dict[str, Find]" = {"container": _container, "image": _image, "network": _network, "volume": _volume}


def run_inspect(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`inspect NAME...`: of whatever kind it is, containers first; or of the one kind asked for."""
    kind = values.text("type")
    if kind and kind not in KINDS:
        raise InvalidArgument(f'"{kind}" is not a valid value for --type')
    return _show(invocation, values, arguments, [kind] if kind else list(KINDS))


def run_container_inspect(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return _show(invocation, values, arguments, ["container"])


def run_image_inspect(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return _show(invocation, values, arguments, ["image"])


def _show(invocation: Invocation, values: "Values", names: list[str], kinds: list[str]) -> int:
    """Print what is found, then what is not; a template is read first, so that its mistakes show at once."""
    form = values.text("format")
    template = None
    if form and form != "json":
        from cutaway.cli.template import Template

        template = Template(form)
    query = {"size": "1"} if values.on("size") else {}
    found, refusals = [], []
    for name in names:
        try:
            found.append(_find(invocation.client, name, query, kinds))
        except Unavailable:
            raise
        except CutawayError as error:
            refusals.append(error.message)
    if template is not None:
        for item in found:
            print(template.render(item))
        if not found:
            print()
    else:
        print(jsontext.dumps(found) if form == "json" else jsontext.pretty(found))
    sys.stdout.flush()
    for text in refusals:
        print(text, file=sys.stderr)
    return 1 if refusals else 0


def _find(client: "Client", name: str, query: dict[str, str], kinds: "Sequence[str]") -> "Any":
    for kind in kinds if name.strip("/ ") else ():
        try:
            return KINDS[kind](client, name, query)
        except NotFound:
            if len(kinds) == 1:
                raise
    raise NotFound(f"Error: No such object: {name}")


_FLAGS = (
    Flag("format", "f", "string", "Print by a Go template, or 'json'"),
    Flag("size", "s", "bool", "Show sizes of containers"),
)


def _command(
    function: "Callable[[Invocation, Values, list[str]], int]", summary: str, *more: Flag
) -> Command:
    return Command(function, summary, "NAME|ID [NAME|ID...]", flags=(*_FLAGS, *more), least=1, most=UNLIMITED)


INSPECT = _command(
    run_inspect,
    "Return low-level information on Docker objects",
    Flag("type", "", "string", "Only objects of this kind"),
)
CONTAINER_INSPECT = _command(run_container_inspect, "Show all details of containers")
IMAGE_INSPECT = _command(run_image_inspect, "Show all details of images")
