"""`logs`: what a container has written so far, and with -f from now on."""

from cutaway.cli.command import Command, Invocation
from cutaway.cli.containers import inspected
from cutaway.cli.flags import Flag
from cutaway.cli.streams import copy_frames
from cutaway.cli.times import moment
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values


def run_logs(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`logs CONTAINER`: its stdout to ours, its stderr to ours."""
    details = inspected(invocation.client, arguments[0])
    identity = str(details.get("Id") or arguments[0])
    query = {"stdout": "1", "stderr": "1", "tail": values.text("tail")}
    query |= {key: "1" for key in ("details", "follow", "timestamps") if values.on(key)}
    for key in ("since", "until"):
        if values.given(key):
            query[key] = _moment(key, values.text(key))
    response = invocation.client.request("GET", f"/containers/{identity}/logs", query)
    copy_frames(response, bool((details.get("Config") or {}).get("Tty")))
    invocation.client.done(response)
    return 0


def _moment(name: str, text: str) -> str:
    try:
        return moment(text)
    except InvalidArgument as error:
        raise InvalidArgument(f'invalid value for "{name}": {error.message}') from None


LOGS = Command(
    run_logs,
    "Fetch the logs of a container",
    "CONTAINER",
    least=1,
    most=1,
    flags=(
        Flag("details", "", "bool", "Show the extra values given to the log"),
        Flag("follow", "f", "bool", "Go on as it comes"),
        Flag("since", "", "string", "Only from this time on (a time, or 10m for ten minutes ago)"),
        Flag("tail", "n", "string", "So many lines from the end", "all"),
        Flag("timestamps", "t", "bool", "Put the time before each line"),
        Flag("until", "", "string", "Only up to this time"),
    ),
)
