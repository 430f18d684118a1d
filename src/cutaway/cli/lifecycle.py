"""Commands that do one thing to each container named: stop, restart, kill, pause, unpause, rm, wait."""

import sys

from cutaway.cli.client import path_segment
from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unavailable, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cutaway.cli.flags import Values


def each(names: list[str], action: "Callable[[str], str]", *, forced: bool = False) -> int:
    """Do it to every one, print what `action` returns, and go on after a refusal; 1 if there was one.

    With `forced`, what is not there is mentioned but no failure. A daemon that has gone ends it at once.
    """
    refusals: list[str] = []
    for name in names:
        try:
            print(action(name), flush=True)
        except Unavailable:
            raise
        except CutawayError as error:
            if forced and isinstance(error, NotFound):
                print(error.message, file=sys.stderr)
            else:
                refusals.append(error.message)
    for text in refusals:
        print(text, file=sys.stderr)
    return 1 if refusals else 0


def container_path(name: str) -> str:
    """The API's path of a container; docker takes its name with a leading slash too."""
    name = name.removeprefix("/")
    if not name:
        raise InvalidArgument("Container name cannot be empty")
    return f"/containers/{path_segment(name)}"


def _post(invocation: Invocation, verb: str, query: dict[str, str]) -> "Callable[[str], str]":
    def post(name: str) -> str:
        invocation.client.call("POST", f"{container_path(name)}/{verb}", query)
        return name

    return post


def run_stop(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return each(arguments, _post(invocation, "stop", _timeout(values)))


def run_restart(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return each(arguments, _post(invocation, "restart", _timeout(values)))


def _timeout(values: "Values") -> dict[str, str]:
    query = {"t": str(values.number("time"))} if values.given("time") else {}
    return query | ({"signal": values.text("signal")} if values.given("signal") else {})


def run_kill(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return each(arguments, _post(invocation, "kill", {"signal": values.text("signal")}))


def run_pause(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return each(arguments, _post(invocation, "pause", {}))


def run_unpause(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    return each(arguments, _post(invocation, "unpause", {}))


def run_rm(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    query = {
        key: "1" for flag, key in (("force", "force"), ("link", "link"), ("volumes", "v")) if values.on(flag)
    }

    def remove(name: str) -> str:
        invocation.client.call("DELETE", container_path(name), query, missing=f"container: {name.strip('/')}")
        return name

    return each(arguments, remove, forced=values.on("force"))


def run_wait(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    from cutaway.cli.session import exit_status

    def wait(name: str) -> str:
        response = invocation.client.request("POST", f"{container_path(name)}/wait")
        try:
            return str(exit_status(response))
        except Unknown as error:
            raise Unknown(error.message.removeprefix("error waiting for container: ")) from None

    return each(arguments, wait)


_SIGNAL = Flag("signal", "s", "string", "Signal to send instead of the container's own")


def _many(
    function: "Callable[[Invocation, Values, list[str]], int]", summary: str, flags: "tuple[Flag, ...]" = ()
) -> Command:
    return Command(function, summary, "CONTAINER [CONTAINER...]", flags=flags, least=1, most=UNLIMITED)


STOP = _many(
    run_stop,
    "Stop one or more running containers",
    (Flag("time", "t", "int", "Seconds to wait before it is killed"), _SIGNAL),
)
RESTART = _many(
    run_restart,
    "Restart one or more containers",
    (Flag("time", "t", "int", "Seconds to wait before it is killed"), _SIGNAL),
)
KILL = _many(
    run_kill,
    "Kill one or more running containers",
    (Flag("signal", "s", "string", "Signal to send", "KILL"),),
)
PAUSE = _many(run_pause, "Pause all processes within one or more containers")
UNPAUSE = _many(run_unpause, "Unpause all processes within one or more containers")
RM = _many(
    run_rm,
    "Remove one or more containers",
    (
        Flag("force", "f", "bool", "Also if it is running: kill it first"),
        Flag("link", "l", "bool", "Remove the link of this name"),
        Flag("volumes", "v", "bool", "Remove its anonymous volumes too"),
    ),
)
WAIT = _many(run_wait, "Block until one or more containers stop, then print their exit codes")
