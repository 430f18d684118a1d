"""`start`: start stopped containers; with -a or -i attached to one, as `run` is."""

import sys

from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.containers import inspected
from cutaway.cli.flags import Flag
from cutaway.cli.lifecycle import container_path
from cutaway.cli.session import Session, proxied_signals
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values


def run_start(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`start CONTAINER...`: prints the names; attached, the exit code is the container's."""
    if values.on("attach") or values.on("interactive"):
        if len(arguments) > 1:
            raise InvalidArgument("you cannot start and attach multiple containers at once")
        return _attached(invocation, values, arguments[0])
    failed: list[str] = []
    for name in arguments:
        try:
            invocation.client.call("POST", f"{container_path(name)}/start")
            print(name, flush=True)
        except Unavailable:
            raise
        except CutawayError as error:
            print(error.message, file=sys.stderr)
            failed.append(name)
    if failed:
        raise FailedPrecondition(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(invocation: Invocation, values: "Values", name: str) -> int:
    client = invocation.client
    details = inspected(client, name)
    config, identity = details.get("Config") or {}, str(details.get("Id") or name)
    stdin = values.on("interactive") and bool(config.get("OpenStdin"))
    session = Session(
        client,
        f"/containers/{identity}",
        tty=bool(config.get("Tty")),
        stdin=stdin,
        proxy=values.on("sig-proxy") and values.on("attach"),
        keys=values.text("detach-keys"),
    )
    with proxied_signals(session) as signals:
        session.attach((["stdin"] if stdin else []) + ["stdout", "stderr"])
        removal = bool((details.get("HostConfig") or {}).get("AutoRemove"))
        session.expect_exit("removed" if removal else "next-exit")
        client.call("POST", f"{session.target}/start")
        if not session.stream(signals):
            return 0
        return session.exit_code(signals)


START = Command(
    run_start,
    "Start one or more stopped containers",
    "CONTAINER [CONTAINER...]",
    least=1,
    most=UNLIMITED,
    flags=(
        Flag("attach", "a", "bool", "Attach stdout and stderr, and pass signals on"),
        Flag("detach-keys", "", "string", "Keys that detach from it (default ctrl-p,ctrl-q)"),
        Flag("interactive", "i", "bool", "Attach stdin too"),
        Flag("sig-proxy", "", "bool", "Pass signals on to it", "true"),
    ),
)
