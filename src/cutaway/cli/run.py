"""`run`: create, attach, wait, start, in that order, then streams and signals until it is over.

Attach and wait come before the start so that neither output nor the end of a quick process can be
missed; with --rm the wait is for the removal, after which the container's name is free again.
"""

from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.creation import create, refused
from cutaway.cli.failure import ExitWith, daemon_text, start_exit_code
from cutaway.cli.flags import Flag
from cutaway.cli.options import CONTAINER_FLAGS
from cutaway.cli.recording import Recording
from cutaway.cli.session import Session, proxied_signals
from cutaway.errors import CutawayError, InvalidArgument
from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values
    from cutaway.cli.loop import Signals


def run_run(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`run IMAGE [COMMAND] [ARG...]`: the exit code is the container's, or 125, 126, 127 if it never ran."""
    if values.on("detach") and values.texts("attach"):
        raise InvalidArgument("Conflicting options: -a and -d")
    recording = Recording(invocation, image=arguments[0])
    try:
        with recording.root as root:
            code = _run(invocation, values, arguments, recording)
            root.set(**{"process.exit_code": code})
            return code
    finally:
        recording.deliver()
        if values.on("trace"):
            recording.show()


def _run(invocation: Invocation, values: "Values", arguments: list[str], recording: Recording) -> int:
    client = invocation.client
    detach = values.on("detach")
    session = Session(
        client,
        "",
        tty=values.on("tty"),
        stdin=values.on("interactive") and not detach,
        proxy=values.on("sig-proxy") and not detach,
        keys=values.text("detach-keys"),
    )
    try:
        identity = create(client, values, arguments, detach=detach)
    except CutawayError as error:
        raise refused(error, invocation.path) from None
    recording.root.set(**{"container.id": identity})
    session.target = f"/containers/{identity}"
    session.proxy = values.on("sig-proxy") and not detach
    if detach:
        _start(invocation, session, None, removed=False)
        print(identity)
        return 0
    with proxied_signals(session) as signals:
        return _attached(invocation, values, session, signals)


def _attached(invocation: Invocation, values: "Values", session: Session, signals: "Signals") -> int:
    streams = values.texts("attach") or (["stdin"] if session.stdin else []) + ["stdout", "stderr"]
    session.stdin = "stdin" in streams and values.on("interactive")
    if streams == ["stdin"]:
        print(session.target.rpartition("/")[2], flush=True)  # with no output to show, docker shows who it is
    try:
        session.attach(streams)
        session.expect_exit("removed" if values.on("rm") else "next-exit")
    except CutawayError as error:
        raise refused(error, invocation.path, hint=False) from None
    _start(invocation, session, signals, removed=values.on("rm"))
    try:
        with spans.span("streams"):
            ended = session.stream(signals)
        if not ended:
            return 0
        with spans.span("wait for the exit code"):
            return session.exit_code(signals)
    except CutawayError as error:
        raise refused(error, invocation.path, hint=False) from None


def _start(invocation: Invocation, session: Session, signals: "Signals | None", *, removed: bool) -> None:
    """Start it. A refusal ends the program with the exit code that its reason has."""
    try:
        invocation.client.call("POST", f"{session.target}/start")
    except CutawayError as error:
        end = refused(error, invocation.path, hint=False, code=start_exit_code(daemon_text(error)))
        if removed and signals is not None:
            _await_removal(session, signals)
        raise end from None


def _await_removal(session: Session, signals: "Signals") -> None:
    """A refused start with --rm: the container is gone once the wait is answered, in whatever way."""
    try:
        session.exit_code(signals)
    except CutawayError:
        raise ExitWith(125) from None


RUN = Command(
    run_run,
    "Run a command in a new container",
    "IMAGE [COMMAND] [ARG...]",
    least=1,
    most=UNLIMITED,
    interspersed=False,
    flags=(
        *CONTAINER_FLAGS,
        Flag("detach", "d", "bool", "Run it in the background and print its ID"),
        Flag("detach-keys", "", "string", "Keys that detach from it (default ctrl-p,ctrl-q)"),
        Flag("sig-proxy", "", "bool", "Pass signals on to it", "true"),
        Flag("trace", "", "bool", "Show the way through all parts when it is over"),
    ),
)
