"""The daemon: everything put together, and its end."""

import _signal  # type: ignore[import-not-found]  # the C part: signal's functions convert to and from enums
import os
import sys

from cutaway.errors import InvalidArgument
from cutaway.faults import point
from cutaway.linux import processes
from cutaway.pb import task_events_pb2
from cutaway.shim import address, events, log, options
from cutaway.shim.launch import Launcher
from cutaway.shim.loop import Loop, wait_for
from cutaway.shim.oom import OomWatcher
from cutaway.shim.reaper import Reaper
from cutaway.shim.runtime import Runtime, pid_file
from cutaway.shim.service import TaskService, methods
from cutaway.shim.title import set_title
from cutaway.shim.ttrpc.server import Server
from cutaway.trace import otlp
from cutaway.trace.context import from_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from cutaway.shim.arguments import Arguments
    from cutaway.shim.bootstrap import Bootstrap
    from cutaway.shim.container import Observer
    from cutaway.shim.loop import Timer

SERVICE = "containerd-shim-cutaway-v1"

_LAST_EVENTS_SECONDS = 5.0
_QUIET_SECONDS = 0.05  # spans are sent when nothing has been asked for so long


class Parts:
    """What a shim is made of that does not depend on whose it is."""

    __slots__ = ("launcher", "loop", "reaper")

    def __init__(self, reaper: Reaper | None = None) -> None:
        self.reaper = reaper or Reaper(Loop())
        self.loop = self.reaper.loop
        self.launcher = Launcher(self.reaper)


class Daemon:
    """One shim. Lives until its last container is deleted and it is told to shut down."""

    observer: "Observer"

    def __init__(
        self,
        arguments: "Arguments",
        caller: "Bootstrap",
        listener: "socket.socket",
        path: str,
        program: str,
        parts: Parts,
    ) -> None:
        self.namespace = arguments["namespace"]
        self.loop = parts.loop
        self.reaper = parts.reaper
        self.launcher = parts.launcher
        binary = options.default_binary(program)
        self.launcher.prepare(binary, _expected(arguments, caller, binary, self.launcher))
        self._path = path
        self._spans = otlp.configure_short(SERVICE)
        self._flush_timer: Timer | None = None
        self._ending = False
        self._publisher = events.publisher(
            self.loop,
            self.launcher,
            self.namespace,
            os.environ.get("TTRPC_ADDRESS", ""),
            arguments["publish-binary"],
            arguments["address"],
        )
        oom = OomWatcher(self.loop, self._tell_oom)
        service = TaskService(
            self, self._publisher, oom, binary, self._shutdown, from_environment(os.environ)
        )
        self.observer = service
        self._server = Server(self.loop, listener, methods(service), self._replied)

    def run(self) -> None:
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, lambda *_: self._shutdown())
        self.serve()

    def serve(self) -> None:
        """Until the loop is stopped."""
        self.loop.run()

    def hang_up(self) -> None:
        """Stop listening, and close connections."""
        self._server.close()

    def _tell_oom(self, container: str) -> None:
        self._publisher.publish(task_events_pb2.TaskOOM(container_id=container))

    def _replied(self) -> None:
        """Spans may wait; a caller may not."""
        if self._spans is not None and self._flush_timer is None:
            self._flush_timer = self.loop.later(_QUIET_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        if self._spans is not None:
            problem = self._spans.flush()
            if problem:
                log.debug(f"spans were not delivered: {problem}")

    def _shutdown(self) -> None:
        """End, but after the reply that is about to be written.

        The socket goes at once: the last events may keep us for seconds, and the next container of this
        name gets a shim of its own meanwhile, with a socket at the same place.
        """
        if self._ending:
            return
        self._ending = True
        point("shim.shutdown.before-socket")
        address.remove(self._path)
        self._server.refuse()
        point("shim.shutdown.socket-removed")
        self.loop.soon(self._begin_end)

    def _begin_end(self) -> None:
        self.loop.spawn(self._end())

    async def _end(self) -> None:
        await wait_for(self.loop, self._publisher.idle, _LAST_EVENTS_SECONDS)
        point("shim.shutdown.events-sent")
        self.hang_up()
        self._flush()
        self.loop.stop()


def run(
    arguments: "Arguments",
    caller: "Bootstrap",
    listener: "socket.socket",
    path: str,
    parts: Parts | None = None,
) -> int:
    """Serve until told to stop."""
    log.configure(arguments.debug)
    words = [f"-{name}={arguments[name]}" for name in ("id", "namespace", "address")]
    set_title([os.path.basename(sys.argv[0]), *words])
    processes.set_subreaper()
    daemon = Daemon(arguments, caller, listener, path, sys.argv[0], parts or Parts())
    daemon.run()
    return 0


def _expected(arguments: "Arguments", caller: "Bootstrap", binary: str, launcher: Launcher) -> list[str]:
    """The runtime's first call: the bundle is the current folder, and its options came with `start`.

    Nothing is to be expected where those make no sense: the request will be refused.
    """
    try:
        bundle, settings = os.getcwd(), caller.options()
    except InvalidArgument:
        return []
    runtime = Runtime(launcher, settings.binary_name or binary, settings, arguments["namespace"], bundle)
    return runtime.expected(arguments["id"], pid_file(bundle))
