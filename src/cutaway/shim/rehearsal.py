"""A shim's first steps, taken by one that waits for its container (see `waiting`).

What a process writes to for the first time since its fork is copied then, page by page, and reference counts
are written to by all that looks at an object. Who has done once what is to be done for a container has copied
most of what that takes. Nothing of it leaves the process, and all of it fails: there is no such container.
"""

import os
import socket

from cutaway.errors import CutawayError
from cutaway.linux import smallfile
from cutaway.pb import shim_pb2, task_events_pb2
from cutaway.pb.ttrpc_pb2 import Request
from cutaway.shim import address, arguments, events, inside
from cutaway.shim.bootstrap import Bootstrap
from cutaway.shim.daemon import Daemon, Parts
from cutaway.shim.loop import READ
from cutaway.shim.service import SERVICES
from cutaway.shim.ttrpc.frame import REQUEST, Frame
from cutaway.trace import spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cutaway.pb.envelope_pb2 import Envelope
    from cutaway.shim.arguments import Arguments
    from cutaway.shim.programs import Main

_ID = "cutaway-rehearsal"
_BUNDLE = f"/proc/{_ID}"  # is not there and cannot be made
_COMMAND = ["-namespace", _ID, "-address", _ID, "-publish-binary", _ID, "-id", _ID, "start"]


def rehearse(parts: Parts) -> None:
    """What the shim itself does. Raises OSError."""
    words = arguments.parse(_COMMAND)
    try:
        _start(words)
        _serve(words, parts)
        _tell(parts)
    finally:
        spans.configure("", None)  # else the shim in earnest would take itself for a part of this one


def _start(words: "Arguments") -> None:
    path = address.path_for(words["address"], words["namespace"], address.group_of(_BUNDLE, _ID))
    Bootstrap(b"", words).answer(address.SCHEME + path)
    smallfile.read("/proc/self/stat")


def _serve(words: "Arguments", parts: Parts) -> None:
    """Answer a request, by a socket that only this process knows."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client,
    ):
        listener.bind("")  # the kernel gives it a name, in no folder: unix(7), "Autobind feature"
        listener.listen()
        daemon = Daemon(words, Bootstrap(b"", words), listener, _BUNDLE, _ID, parts)
        client.connect(listener.getsockname())
        client.send(_frame(1, "Start", shim_pb2.StartRequest(id=_ID)))
        parts.loop.watch(client.fileno(), READ, lambda _: parts.loop.stop())
        daemon.serve()
        parts.loop.forget(client.fileno())
        daemon.hang_up()


def _frame(stream: int, method: str, message: "Message") -> bytes:
    request = Request(service=SERVICES[0], method=method, payload=message.SerializeToString())
    return Frame(stream, REQUEST, request.SerializeToString()).encode()


class _Nobody(events.Publisher):
    """Sends events nowhere."""

    def _send(self, envelope: "Envelope") -> None:
        events.forwarding(envelope, _ID)
        self._sent()


def _tell(parts: Parts) -> None:
    nobody = _Nobody(parts.loop, _ID)
    nobody.publish(task_events_pb2.TaskCreate(container_id=_ID, bundle=_BUNDLE, pid=1))
    nobody.publish(task_events_pb2.TaskStart(container_id=_ID, pid=1))


def call(program: "Main") -> None:
    """A short call of the runtime in this process, which nobody's collector hears of. Raises OSError."""
    spans.configure(_ID, lambda _: None)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        command = ["--root", _BUNDLE, "--log", "/dev/null", "--log-format", "json", "start", _ID]
        inside.call(program, [_ID, *command], null, null)
    except CutawayError:
        return
    finally:
        os.close(null)
        spans.configure("", None)
