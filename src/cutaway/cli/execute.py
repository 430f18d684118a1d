"""`exec`: one more command in a running container."""

from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.containers import inspected
from cutaway.cli.flags import Flag
from cutaway.cli.lifecycle import container_path
from cutaway.cli.session import Session, proxied_signals
from cutaway.cli.variables import environment
from cutaway.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values


def run_exec(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`exec CONTAINER COMMAND [ARG...]`: the exit code is the command's."""
    client, name = invocation.client, arguments[0]
    detach, tty = values.on("detach"), values.on("tty")
    stdin = values.on("interactive") and not detach
    body = exec_body(values, arguments[1:])  # a mistake in it shows before the container is asked
    inspected(client, name)
    session = Session(client, "", tty=tty, stdin=stdin, proxy=False, keys=values.text("detach-keys"))
    created = client.call("POST", f"{container_path(name)}/exec", None, body)
    identity = str((created or {}).get("Id") or "")
    if not identity:
        raise Unknown("exec ID empty")
    session.target = f"/exec/{identity}"
    start = {"Detach": detach, "Tty": tty}
    if detach:
        client.call("POST", f"{session.target}/start", None, start)
        return 0
    session.connection = client.hijack(f"{session.target}/start", None, start)
    with proxied_signals(session) as signals:
        if not session.stream(signals):
            return 0
    return int(client.call("GET", f"{session.target}/json").get("ExitCode") or 0)


def exec_body(values: "Values", command: list[str]) -> "dict[str, Any]":
    """The body of `POST /containers/X/exec`."""
    attached = not values.on("detach")
    return {
        "User": values.text("user"),
        "Privileged": values.on("privileged"),
        "Tty": values.on("tty"),
        "AttachStdin": values.on("interactive") and attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Detach": not attached,
        "DetachKeys": values.text("detach-keys"),
        "Env": environment(values.texts("env-file"), values.texts("env")),
        "WorkingDir": values.text("workdir"),
        "Cmd": command,
    }


EXEC = Command(
    run_exec,
    "Run a command in a running container",
    "CONTAINER COMMAND [ARG...]",
    least=2,
    most=UNLIMITED,
    interspersed=False,
    flags=(
        Flag("detach", "d", "bool", "Run it in the background"),
        Flag("detach-keys", "", "string", "Keys that detach from it (default ctrl-p,ctrl-q)"),
        Flag("env", "e", "env", "Set an environment variable (NAME=value, or NAME to pass yours on)"),
        Flag("env-file", "", "list", "Read environment variables from a file"),
        Flag("interactive", "i", "bool", "Keep stdin open"),
        Flag("privileged", "", "bool", "Give it all rights on the host"),
        Flag("tty", "t", "bool", "Give it a terminal"),
        Flag("user", "u", "string", "User to run as (name|uid[:group|gid])"),
        Flag("workdir", "w", "string", "Working directory in the container"),
    ),
)
