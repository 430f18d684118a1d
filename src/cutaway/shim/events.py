"""Events to the container service, in the order in which they happened.

The way is `containerd.services.events.ttrpc.v1.Events/Forward` on TTRPC_ADDRESS; a container service
without that has named a program instead (`-publish-binary`), which gets the event on stdin. One
event is on its way at a time, since a server may handle two at once. When the service is away,
events wait for it: clients of a restarted service then still learn of an exit.
"""

import time
from collections import deque

from cutaway.faults import point
from cutaway.pb.envelope_pb2 import Envelope
from cutaway.pb.events_ttrpc_pb2 import ForwardRequest
from cutaway.pb.ttrpc_pb2 import KeyValue, Request, Response
from cutaway.shim import log
from cutaway.shim.loop import Event
from cutaway.shim.ttrpc.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cutaway.shim.launch import Launcher
    from cutaway.shim.loop import Loop

_SERVICE = "containerd.services.events.ttrpc.v1.Events"
_CALL_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_MAX_WAITING = 2048

_TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskOOM": "/tasks/oom",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}


class Publisher:
    """Queues events; `idle` is an event of its own, for the shutdown."""

    def __init__(self, loop: "Loop", namespace: str) -> None:
        self._loop = loop
        self._namespace = namespace
        self._waiting: deque[Envelope] = deque()
        self._sent_all = Event()
        self._sent_all.set()

    def publish(self, event: "Message") -> None:
        """Send a message of `containerd.events`; returns at once."""
        envelope = Envelope(namespace=self._namespace, topic=_TOPICS[event.DESCRIPTOR.name])
        envelope.timestamp.FromNanoseconds(time.time_ns())
        envelope.event.type_url = event.DESCRIPTOR.full_name  # containerd's have no type.googleapis.com/
        envelope.event.value = event.SerializeToString()
        if len(self._waiting) == _MAX_WAITING:
            log.error(f"{_MAX_WAITING} events wait for the container service: the oldest is dropped")
            self._waiting.popleft()
        self._waiting.append(envelope)
        if self._sent_all.is_set:
            self._sent_all = Event()
            self._next()

    @property
    def idle(self) -> Event:
        """Happens when nothing waits any more."""
        return self._sent_all

    def _next(self) -> None:
        if not self._waiting:
            self._sent_all.set()
        else:
            self._send(self._waiting[0])

    def _send(self, envelope: Envelope) -> None:
        raise NotImplementedError

    def _sent(self) -> None:
        self._waiting.popleft()
        self._next()

    def _retry(self) -> None:
        self._loop.later(_RETRY_SECONDS, self._next)

    def close(self) -> None:
        """Forget what could not be sent."""
        self._waiting.clear()


class TtrpcPublisher(Publisher):
    """Over one connection that lives as long as the service."""

    def __init__(self, loop: "Loop", namespace: str, path: str) -> None:
        super().__init__(loop, namespace)
        self._client = Client(loop, path)

    def _send(self, envelope: Envelope) -> None:
        request = forwarding(envelope, self._namespace)
        point("shim.events.before-send")
        try:
            self._client.call(request, _CALL_SECONDS, self._replied)
        except OSError as error:
            log.debug(f"the container service cannot be told of {envelope.topic} now: {error}")
            self._retry()

    def _replied(self, response: Response | None) -> None:
        if response is None:
            self._retry()
            return
        if response.status.code:
            log.error(f"the container service refused an event: {response.status.message}")
        point("shim.events.sent")
        self._sent()

    def close(self) -> None:
        super().close()
        self._client.close()


def forwarding(envelope: Envelope, namespace: str) -> Request:
    """The call that tells of an event."""
    return Request(
        service=_SERVICE,
        method="Forward",
        payload=ForwardRequest(envelope=envelope).SerializeToString(),
        metadata=[KeyValue(key="containerd-namespace-ttrpc", value=namespace)],
    )


class BinaryPublisher(Publisher):
    """By the program that `-publish-binary` names, once for each event."""

    def __init__(
        self, loop: "Loop", namespace: str, launcher: "Launcher", program: str, address: str
    ) -> None:
        super().__init__(loop, namespace)
        self._launcher = launcher
        self._program = program
        self._address = address

    def _send(self, envelope: Envelope) -> None:
        self._loop.spawn(self._run(envelope))

    async def _run(self, envelope: Envelope) -> None:
        argv = [
            self._program, "--address", self._address, "publish",
            "--topic", envelope.topic, "--namespace", envelope.namespace,
        ]  # fmt: skip
        result = await self._launcher.run(argv, stdin=envelope.event.SerializeToString())
        if result.status:
            log.error(f"{self._program} publish {envelope.topic}: {result.output}")
        self._sent()


def publisher(
    loop: "Loop", launcher: "Launcher", namespace: str, ttrpc_address: str, program: str, address: str
) -> Publisher:
    """The way that the container service offers."""
    if ttrpc_address:
        return TtrpcPublisher(loop, namespace, ttrpc_address.removeprefix("unix://"))
    return BinaryPublisher(loop, namespace, launcher, program, address)
