"""Being attached to a container: its streams, our signals, the terminal, and its exit code.

Session(client, ID, tty)
    .attach(...)        before the start, so that no output is missed
    .expect_exit(...)   before the start too: the daemon answers when it is over
    .stream()           until the container's streams end, or we have detached
    .exit_code()        the container's
"""

import os
import sys

from cutaway.cli import jsontext, terminal
from cutaway.cli.http import Connection, Response
from cutaway.cli.loop import PROXIED, READ, SIGWINCH, Loop, Signals, signal_name
from cutaway.cli.streams import Attachment
from cutaway.errors import CutawayError, InvalidArgument, Unavailable, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.client import Client

STDIN = 0


class Session:
    """One attached container (or exec, which has no exit to wait for here)."""

    def __init__(
        self, client: "Client", target: str, *, tty: bool, stdin: bool, proxy: bool = True, keys: str = ""
    ) -> None:
        self.client = client
        self.target = target  # "/containers/ID" or "/exec/ID"
        self.tty = tty
        self.stdin = stdin
        self.proxy = proxy and target.startswith("/containers/")
        self.keys = keys
        self.connection: Connection | None = None
        self.waiting: Response | None = None
        if keys:
            terminal.parse_keys(keys)
        if tty and stdin and not os.isatty(STDIN):
            raise InvalidArgument("the input device is not a TTY")

    def attach(self, streams: "list[str]", *, logs: bool = False) -> None:
        """Take over the streams (of stdin, stdout, stderr); output waits in the kernel until `stream`."""
        query = {"stream": "1", **dict.fromkeys(streams, "1")}
        if logs:
            query["logs"] = "1"
        if self.keys:
            query["detachKeys"] = self.keys
        self.connection = self.client.hijack(f"{self.target}/attach", query)

    def expect_exit(self, condition: str) -> None:
        """Ask for the end; must be answered (with headers, the code comes later) before the start is sent."""
        self.waiting = self.client.request("POST", f"{self.target}/wait", {"condition": condition})

    def stream(self, signals: Signals) -> bool:
        """Pass streams and signals until they end. True: ended; False: the user has detached."""
        if self.connection is None:
            return True
        sys.stdout.flush()
        interactive = self.tty and self.stdin
        if not interactive:
            return self._pump(signals, self.connection)
        with terminal.RawMode(STDIN):
            return self._pump(signals, self.connection)

    def _pump(self, signals: Signals, connection: Connection) -> bool:
        loop = Loop()
        keys = None
        if self.tty and self.stdin:
            keys = terminal.DetachKeys(terminal.parse_keys(self.keys or terminal.DETACH_KEYS))
        self._watch_signals(loop, signals)
        attachment = Attachment(
            loop, connection, tty=self.tty, stdin=STDIN if self.stdin else None, keys=keys
        )
        if self.tty:
            self.resize()
        while not attachment.finished:
            loop.once()
        return not attachment.detached

    def exit_code(self, signals: Signals) -> int:
        """Wait for the end, passing signals on meanwhile. Raises `Unavailable` when the daemon goes first."""
        assert self.waiting is not None
        loop = Loop()
        self._watch_signals(loop, signals)
        ready: list[int] = []
        if not self.waiting.connection.buffer:
            loop.watch(self.waiting.connection.fileno(), READ, ready.append)
            while not ready:
                loop.once()
        return exit_status(self.waiting)

    def _watch_signals(self, loop: Loop, signals: Signals) -> None:
        if self.tty:
            signals.catch([SIGWINCH])

        def handle(events: int) -> None:
            for number in signals.pending():
                if number == SIGWINCH:
                    self.resize()
                elif self.proxy:
                    self._pass_on(number)

        loop.watch(signals.fileno(), READ, handle)

    def _pass_on(self, number: int) -> None:
        try:
            self.client.call("POST", f"{self.target}/kill", {"signal": signal_name(number)})
        except Unavailable:
            raise
        except CutawayError:
            return  # it has just ended: there is nobody left to tell

    def resize(self) -> None:
        """Tell the container's terminal the size of ours."""
        rows, columns = terminal.size()
        if not (rows and columns):
            return
        try:
            self.client.call("POST", f"{self.target}/resize", {"h": str(rows), "w": str(columns)})
        except Unavailable:
            raise
        except CutawayError:
            return  # a short process may have ended already


def proxied_signals(session: Session) -> Signals:
    """Signals caught for a session from before its start, so that none gets lost in between."""
    signals = Signals()
    if session.proxy and not (session.tty and session.stdin):
        signals.catch(PROXIED)
    elif session.proxy:
        signals.catch([number for number in PROXIED if signal_name(number) not in ("TSTP", "CONT")])
    return signals


def exit_status(response: Response) -> int:
    """The exit code in the answer to a wait. Raises `Unknown` for an error in its place."""
    answer = jsontext.loads(response.read_all(), "the daemon's answer to a wait")
    if not isinstance(answer, dict):
        raise Unknown("the daemon's answer to a wait is not an object")
    error = answer.get("Error")
    if isinstance(error, dict) and error.get("Message"):
        raise Unknown(f"error waiting for container: {error['Message']}")
    code = answer.get("StatusCode")
    if not isinstance(code, int):
        raise Unknown("the daemon's answer to a wait has no exit code in it")
    return code
