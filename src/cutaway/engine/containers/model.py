"""A container, and its state machine.

               create                     start
                 │          ┌───────────────────────────────┐
                 ▼          │                               ▼
    (nothing) ─▶ created ───┤                            running ◀──▶ paused
                 ▲          │                               │            │
                 │ a failed start returns here              │ exit       │ exit
                            │     start                     ▼            ▼
                            └──────────── exited ◀──────────┴────────────┘
                                             ▲                  │ restart policy
                                             │  stop            ▼
                                             └───────────── restarting ──▶ running
    created, exited, dead ──▶ removing ──▶ (nothing);  a removal that fails ends in dead

Whatever is not drawn is refused by `State.become`; what each verb needs, and Docker's words when it is
not so, is in `verbs.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cutaway.engine.containers.config import Config, HostConfig, words
from cutaway.engine.containers.mounts import MountPoint
from cutaway.errors import FailedPrecondition
from cutaway.trace.context import SpanContext

if TYPE_CHECKING:
    from cutaway.engine.containers.execs import Exec
    from cutaway.engine.logs.writer import ContainerLog
    from cutaway.engine.network import Endpoint
    from cutaway.engine.stdio.fifo import Writer
    from cutaway.engine.stdio.hub import Hub
    from cutaway.pb.mount_pb2 import Mount


class Status(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


_NEXT: Final[dict[Status, frozenset[Status]]] = {
    Status.CREATED: frozenset({Status.CREATED, Status.RUNNING, Status.REMOVING}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.EXITED, Status.RESTARTING}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.RESTARTING: frozenset({Status.RUNNING, Status.EXITED, Status.RESTARTING}),
    Status.EXITED: frozenset({Status.RUNNING, Status.EXITED, Status.REMOVING}),
    Status.REMOVING: frozenset({Status.DEAD}),
    Status.DEAD: frozenset({Status.REMOVING}),
}


@dataclass(frozen=True)
class State:
    """Where a container is in its life. Times are nanoseconds since the epoch, 0 for never."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self.status in (Status.RUNNING, Status.PAUSED)

    @property
    def is_active(self) -> bool:
        """Whether Docker calls it running: a process is there, or the restart policy makes one shortly."""
        return self.is_running or self.status is Status.RESTARTING

    def become(self, status: Status, **changes: object) -> State:
        """The state after a transition. Raises `FailedPrecondition` for one that is not in the drawing."""
        if status not in _NEXT[self.status]:
            raise FailedPrecondition(f"a container that is {self.status} cannot become {status}")
        return replace(self, status=status, **changes)  # type: ignore[arg-type]  # names checked by replace

    def running(self, pid: int, started_ns: int) -> State:
        return self.become(
            Status.RUNNING, pid=pid, exit_code=0, error="", oom_killed=False, started_ns=started_ns
        )

    def ended(self, exit_code: int, finished_ns: int, *, oom_killed: bool, restarting: bool) -> State:
        status = Status.RESTARTING if restarting else Status.EXITED
        return self.become(status, pid=0, exit_code=exit_code, finished_ns=finished_ns, oom_killed=oom_killed)

    def noted(self, exit_code: int, finished_ns: int) -> State:
        """Still to be cleaned up after, but its end is known from here on, whatever becomes of us.

        The task in containerd is the only other memory of the exit code, and deleting it comes next.
        """
        return replace(self, exit_code=exit_code, finished_ns=max(finished_ns, self.started_ns))

    @property
    def is_noted(self) -> bool:
        """Whether the end of the present run was noted."""
        return self.is_running and self.finished_ns >= self.started_ns > 0

    def start_failed(self, error: str, exit_code: int) -> State:
        """Not started: as before, with the reason; after a failed restart that is the end of it."""
        status = Status.EXITED if self.status is Status.RESTARTING else self.status
        return self.become(status, pid=0, error=error, exit_code=exit_code)


@dataclass(eq=False)
class Container:
    """One container: what is stored of it, and below the line what only lives with this process."""

    id: str
    name: str
    created_ns: int
    image_id: str
    config: Config
    host: HostConfig
    mounts: list[MountPoint]
    state: State = attribute(default_factory=State)
    restart_count: int = 0
    stopped_by_user: bool = False
    """Whether the last stop was asked for, which `unless-stopped` and `on-failure` respect."""
    trace: SpanContext | None = None
    """The span of the request that created it: what later happens to it belongs to that trace."""
    endpoint: Endpoint | None = None
    mac_address: str = ""

    # -- not stored ------------------------------------------------------------------------------
    lock: asyncio.Lock = attribute(default_factory=asyncio.Lock)
    """Held by whoever moves the container from one state to the next."""
    log: ContainerLog | None = None
    hub: Hub = attribute(init=False)
    stdin: Writer | None = None
    rootfs: Sequence[Mount] | None = None
    """How to mount its snapshot, where this process has learned it already."""
    execs: dict[str, Exec] = attribute(default_factory=dict)
    next_exit: set[asyncio.Future[int]] = attribute(default_factory=set)
    on_removed: set[asyncio.Future[int]] = attribute(default_factory=set)
    saw_oom: bool = False
    restarts_in_a_row: int = 0
    restart_timer: asyncio.Task[None] | None = None

    def settle(self, waiters: set[asyncio.Future[int]]) -> None:
        """Tell those who wait the exit code, and those who follow the log that the run is over."""
        if self.log is not None:
            self.log.wake()
        waiting = list(waiters)
        waiters.clear()
        for future in waiting:
            if not future.done():
                future.set_result(self.state.exit_code)

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def image(self) -> str:
        """The image's name as the user gave it."""
        return self.config.image

    @property
    def path_and_args(self) -> list[str]:
        """The whole command line: entry point, then command."""
        return words(self.config.entrypoint) + words(self.config.cmd)
