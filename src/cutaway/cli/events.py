"""`events`: what the daemon does, as it does it."""

from cutaway.cli import jsontext
from cutaway.cli.command import Command, Invocation
from cutaway.cli.filters import filters
from cutaway.cli.flags import Flag
from cutaway.cli.times import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values


def run_events(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`events`: until interrupted, or up to --until."""
    form = values.text("format")
    query = filters(values.texts("filter"))
    query |= {key: moment(values.text(key)) for key in ("since", "until") if values.given(key)}
    template = None
    if form and form != "json":
        from cutaway.cli.template import Template

        template = Template(form)
    response = invocation.client.request("GET", "/events", query)
    for line in response.lines():
        event = jsontext.loads(line, "the daemon's event")
        if template is not None:
            print(template.render(event), flush=True)
        else:
            print(jsontext.dumps(event) if form else line_of(event), flush=True)
    return 0


def line_of(event: "dict[str, Any]") -> str:
    """`TIME TYPE ACTION ID (key=value, ...)`."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    stamp = _stamp(int(event.get("timeNano") or 0), int(event.get("time") or 0))
    text = f"{stamp} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    details = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
    return f"{text} ({details})" if details else text


def _stamp(nanoseconds: int, seconds: int) -> str:
    """RFC 3339 with nanoseconds, in local time; UTC is written Z."""
    import time

    seconds, fraction = divmod(nanoseconds, 10**9) if nanoseconds else (seconds, 0)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    offset = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{fraction:09d}{offset}"


EVENTS = Command(
    run_events,
    "Get real time events from the server",
    flags=(
        Flag("filter", "f", "filter", "Show only those that meet a condition (name=value)"),
        Flag("format", "", "string", "Print each by a Go template"),
        Flag("since", "", "string", "Begin with events of this time (a time, or 10m for ten minutes ago)"),
        Flag("until", "", "string", "End at this time"),
    ),
)
