"""Which exits a client that comes back is told of."""

from __future__ import annotations

from google.protobuf.message import Message

from cutaway.containerd.bus import Event, event_now
from cutaway.containerd.tasks.missed import MissedExits
from cutaway.pb.task_events_pb2 import TaskCreate, TaskDelete, TaskExit


def exited(container: str, id: str = "", pid: int = 7) -> Event:
    return event_now("ns", "/tasks/exit", TaskExit(container_id=container, id=id or container, pid=pid))


def kept(*events: Event, seconds: float = 1000) -> list[Event]:
    """What is told after these, of the adopted tasks a and b."""
    missed = MissedExits(seconds)
    for container in ("a", "b"):
        missed.adopt("ns", container)
    for event in events:
        missed.note(event)
    return missed.recent()


def over(topic: str, message: Message) -> Event:
    return event_now("ns", topic, message)


def test_exits_of_adopted_tasks_and_their_execs() -> None:
    events = [exited("a"), exited("a", "exec"), exited("b")]
    assert kept(*events, exited("other")) == events


def test_the_latest_of_two_alike() -> None:
    assert kept(exited("a"), last := exited("a", pid=8)) == [last]


def test_nothing_of_tasks_that_are_over_or_made_anew() -> None:
    assert kept(exited("a"), over("/tasks/delete", TaskDelete(container_id="a"))) == []
    assert kept(exited("a"), over("/tasks/create", TaskCreate(container_id="a")), exited("a")) == []


def test_nothing_that_is_no_exit() -> None:
    assert (
        kept(Event(1, "ns", "/tasks/exit", "x", b"\xff"), over("/tasks/oom", TaskExit(container_id="a")))
        == []
    )


def test_nothing_after_the_time() -> None:
    assert kept(exited("a"), seconds=-1) == []
