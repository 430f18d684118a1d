"""Which verb is allowed in which state, and the one line for one that is not.

    created ──start──▶ running ──pause──▶ paused        init; an exec has no pause
       │                  │  ◀──resume──    │
       └──────── exit ────┴────── exit ─────┘
                          ▼
                       stopped ──delete──▶ deleted       created may be deleted, too

Source of the wording: containerd's runc shim (process/init_state.go, exec_state.go).
"""

from cutaway.errors import CutawayError, FailedPrecondition, NotFound

START = "start"
DELETE = "delete"
PAUSE = "pause"
RESUME = "resume"
UPDATE = "update"
EXEC = "exec"
KILL = "kill"
CHECKPOINT = "checkpoint"
RESIZE = "resize"


class State:
    """One state: its name, and for each forbidden verb the words of the refusal."""

    def __init__(self, name: str, refusals: dict[str, str], gone: bool = False) -> None:
        self.name = name
        self._refusals = refusals
        self._gone = gone

    def check(self, verb: str) -> None:
        """Raises `FailedPrecondition`, or `NotFound` for what has been deleted."""
        words = self._refusals.get(verb)
        if words is not None:
            error: type[CutawayError] = NotFound if self._gone else FailedPrecondition
            raise error(words)

    def __repr__(self) -> str:
        return f"State({self.name})"


_NOT_YET = {
    PAUSE: "cannot pause task in created state",
    RESUME: "cannot resume task in created state",
    CHECKPOINT: "cannot checkpoint a task in created state",
}
CREATED = State("created", _NOT_YET)
# A container that is to be restored: there is no process before its start.
SAVED = State("created", {**_NOT_YET, EXEC: "cannot exec in a created state"})
RUNNING = State(
    "running",
    {
        START: "cannot start a running process",
        DELETE: "cannot delete a running process",
        RESUME: "cannot resume a running process",
    },
)
PAUSED = State(
    "paused",
    {
        START: "cannot start a paused process",
        DELETE: "cannot delete a paused process",
        PAUSE: "cannot pause a paused container",
        EXEC: "cannot exec in a paused state",
    },
)
STOPPED = State(
    "stopped",
    {
        START: "cannot start a stopped process",
        PAUSE: "cannot pause a stopped container",
        RESUME: "cannot resume a stopped container",
        UPDATE: "cannot update a stopped container",
        EXEC: "cannot exec in a stopped state",
        CHECKPOINT: "cannot checkpoint a stopped container",
        RESIZE: "cannot resize a stopped container",
    },
)
DELETED = State(
    "deleted",
    {
        START: "cannot start a deleted process",
        DELETE: "cannot delete a deleted process",
        PAUSE: "cannot pause a deleted process",
        RESUME: "cannot resume a deleted process",
        UPDATE: "cannot update a deleted process",
        EXEC: "cannot exec in a deleted state",
        CHECKPOINT: "cannot checkpoint a deleted process",
        KILL: "cannot kill a deleted process",
        RESIZE: "cannot resize a deleted process",
    },
    gone=True,
)
