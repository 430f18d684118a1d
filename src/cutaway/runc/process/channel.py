"""What the runtime and the container's process say to each other while it is being made.

    runtime (parent.py)            bridge (bridge.py)              init (init.py, exec_init.py)
       │── clone ─────────────────────▶│  only where `NamespacePlan.needs_bridge` says so
       │                               │ setns, unshare(user)
       │◀──────────────────── "map" ───│
       │  writes uid_map and gid_map
       │── "mapped" ──────────────────▶│── clone(CLONE_PARENT) ─────────▶│
       │◀──────────────────── "pid" ───│ exits
       │  cgroup, rlimits, state.json; without a bridge: clone, and the maps, directly
       │── "go" ────────────────────────────────────────────────────────▶│ mounts, devices, masks
       │◀────────────────────────────────────────────────── "mounted" ───│
       │  limits; prestart and createRuntime hooks
       │── "resume" ────────────────────────────────────────────────────▶│ createContainer hooks,
       │                                                                 │ pivot_root
       │◀──────────────────────────────────────────────────── "ready" ───│ user, capabilities, seccomp
       │◀───────────────────────── "listener", with SCMP_ACT_NOTIFY ─────│
       │  takes the descriptor out of init, sends it to the agent
       │── "taken" ──────────────────────────────────────────────────────▶│
       │◀───────────────────────────────────────── "done", or just EOF ──│ waits in open(exec.fifo)
       │  pid file; exits                                                │ startContainer hooks, exec

Without hooks and terminal init does not wait after "mounted": it hears "resume" as late as it may.
"done" may be forbidden by the container's own seccomp filter; then the closed socket stands for it.

At any point the other side may say "error", or nothing more: then its end of the socket is closed, which
the reader sees as `Gone`. A message is one packet of a SOCK_SEQPACKET pair: a JSON object whose "say" is
one of the words above.
"""

import _socket
import os

from cutaway.errors import Aborted, CutawayError, all_classes
from cutaway.oci import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.runc.plan.step import Timing

WORDS = frozenset(
    {"map", "mapped", "pid", "go", "mounted", "resume", "ready", "listener", "taken", "done", "error"}
)
_LARGEST = 1 << 17
_TEXT_LARGEST = 1 << 15


class Gone(Aborted):
    """The other side closed without a word."""


class Message:
    """One message: its word and what comes with it."""

    __slots__ = ("values", "word")

    def __init__(self, word: str, values: "dict[str, Any]") -> None:
        self.word = word
        self.values = values


class Channel:
    """One end of the conversation."""

    __slots__ = ("_socket",)

    def __init__(self, end: "_socket.socket") -> None:
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def say(self, word: str, **values: object) -> None:
        """Send a message. Raises `Gone` when nobody is there to read it."""
        try:
            self._socket.send(jsontext.dumps({"say": word, **values}).encode(), _socket.MSG_NOSIGNAL)
        except OSError:
            raise Gone("the other process is gone") from None

    def say_error(self, error: CutawayError, stage: str) -> None:
        """Send an error; `stage` tells the parent how far the process had come."""
        text = str(error).encode(errors="backslashreplace").decode()[:_TEXT_LARGEST]
        self.say("error", kind=type(error).__name__, text=text, stage=stage)

    def offer(self, listener: int) -> None:
        """Have the parent take a seccomp listener, by write(2) and read(2) alone: what else the filter hands
        to the agent, nobody answers yet. Raises `Gone`."""
        fd = self._socket.fileno()
        os.write(fd, b'{"say": "listener", "fd": %d}' % listener)
        if not os.read(fd, _LARGEST):
            raise Gone("the other process is gone")
        os.close(listener)

    def hear(self, *expected: str) -> Message:
        """Wait for one of the expected words. Raises `Gone`, `Aborted`, and what the other side reports."""
        try:
            data = self._socket.recv(_LARGEST)
        except ConnectionResetError:
            # It has ended without reading what we said, and that is told once. What it said is still there.
            data = self._socket.recv(_LARGEST)
        if not data:
            raise Gone("the other process ended without a word")
        values = jsontext.loads(data)
        word = values.pop("say")
        if word not in expected and word != "error":
            raise Aborted(f"expected {' or '.join(expected)} from the other process, got {word}")
        return Message(word, values)


def pair() -> tuple[Channel, Channel]:
    """Both ends of a new conversation, closed on exec."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(ours), Channel(theirs)


def error_of(message: Message) -> CutawayError:
    """The error that a message of the word "error" reports, as the class it had there."""
    kinds = {cls.__name__: cls for cls in all_classes()}
    kind = kinds.get(str(message.values.get("kind")), Aborted)
    return kind(str(message.values.get("text")))


def encode_timings(timings: "list[Timing]") -> "list[list[Any]]":
    """Timings as JSON values, for "ready"."""
    return [[timing.name, timing.start_ns, timing.end_ns, timing.values] for timing in timings]
