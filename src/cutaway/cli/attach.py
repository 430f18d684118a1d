"""`attach`: our streams on a container that runs already."""

import sys

from cutaway.cli.command import Command, Invocation
from cutaway.cli.containers import inspected
from cutaway.cli.flags import Flag
from cutaway.cli.session import Session, proxied_signals
from cutaway.errors import FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values


def run_attach(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`attach CONTAINER`: the exit code is the container's; 1 after detaching, as docker has it."""
    details = inspected(invocation.client, arguments[0])
    _check_state(details.get("State") or {})
    config, identity = details.get("Config") or {}, str(details.get("Id") or arguments[0])
    stdin = bool(config.get("OpenStdin")) and not values.on("no-stdin")
    session = Session(
        invocation.client,
        f"/containers/{identity}",
        tty=bool(config.get("Tty")),
        stdin=stdin,
        proxy=values.on("sig-proxy"),
        keys=values.text("detach-keys"),
    )
    with proxied_signals(session) as signals:
        session.attach((["stdin"] if stdin else []) + ["stdout", "stderr"])
        session.expect_exit("not-running")
        if session.stream(signals):
            return session.exit_code(signals)
    print("read escape sequence", file=sys.stderr)
    return 1


def _check_state(state: "dict[str, Any]") -> None:
    for key, text in (
        ("Paused", "You cannot attach to a paused container, unpause it first"),
        ("Restarting", "You cannot attach to a restarting container, wait until it is running"),
    ):
        if state.get(key):
            raise FailedPrecondition(text)
    if not state.get("Running"):
        raise FailedPrecondition("You cannot attach to a stopped container, start it first")


ATTACH = Command(
    run_attach,
    "Attach local standard input, output, and error streams to a running container",
    "CONTAINER",
    least=1,
    most=1,
    flags=(
        Flag("detach-keys", "", "string", "Keys that detach from it (default ctrl-p,ctrl-q)"),
        Flag("no-stdin", "", "bool", "Do not attach stdin"),
        Flag("sig-proxy", "", "bool", "Pass signals on to it", "true"),
    ),
)
