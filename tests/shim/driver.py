"""A shim as a container service sees it: started by its command line, spoken to over ttrpc.

    with ShimHost(base) as host:
        shim = host.start(host.bundle("c1", ["sh", "-c", "exit 3"]))
        shim.task("Create", ...)

The host listens for events, and can start shims by exec or by the zygote; which runtime is called is
the options' matter.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.message import Message

from cutaway.pb import envelope_pb2, runc_options_pb2, service, shim_pb2, task_events_pb2
from cutaway.pb.events_ttrpc_pb2 import ForwardRequest
from cutaway.pb.ttrpc_pb2 import KeyValue, Request, Response
from shim.bundles import TIMEOUT, Bundle, merge, process, spec, unpack
from support.peers import SYSTEM_PATH, VENV_BIN, peer
from support.process import has_ended, wait_until

PROGRAM: Final = VENV_BIN / "containerd-shim-cutaway-v1"
METHODS: Final = service.methods(shim_pb2.DESCRIPTOR, "Task")
OPTIONS: Final = "containerd.runc.v1.Options"
HEADER: Final = struct.Struct(">IIBB")


class TaskError(Exception):
    """The shim's answer was a status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Ttrpc:
    """A blocking client; calls may overlap: `send` some, `receive` each."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._stream = -1
        self._arrived: dict[int, Response] = {}

    def send(
        self,
        name: str,
        request: Message,
        *,
        service: str = "containerd.task.v2.Task",
        timeout: float = 0.0,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Send a request; returns its stream."""
        pairs = [KeyValue(key=key, value=value) for key, value in (metadata or {}).items()]
        payload = Request(
            service=service,
            method=name,
            payload=request.SerializeToString(),
            timeout_nano=int(timeout * 1e9),
            metadata=pairs,
        ).SerializeToString()
        self._stream += 2
        self.send_raw(HEADER.pack(len(payload), self._stream, 1, 0) + payload)
        return self._stream

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, stream: int) -> Response:
        """The response on a stream; others are kept."""
        while stream not in self._arrived:
            length, found, kind, _ = HEADER.unpack(self._exactly(HEADER.size))
            assert kind == 2
            self._arrived[found] = Response.FromString(self._exactly(length))
        return self._arrived.pop(stream)

    def arrived(self, stream: int) -> bool:
        """Whether a response on a stream has come with the others."""
        return stream in self._arrived

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            assert part, "the shim hung up"
            data += part
        return data

    def is_closed(self) -> bool:
        """Wait for the shim to hang up."""
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


class Events:
    """The container service's end: takes events and keeps them in order."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.envelopes: list[envelope_pb2.Envelope] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.listen()

    def listen(self) -> None:
        """Begin, or begin again after `hang_up`."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self._start(self._accept, self._listener)

    def hang_up(self) -> None:
        """Go away as a daemon that ends."""
        self.close()
        os.unlink(self.path)

    def close(self) -> None:
        """End the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # the listener's, which adds no more to the list once it has ended
            thread.join()
            break
        for connection in self._connections:
            with connection, suppress(OSError):  # the shim may have gone
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._connections, self._threads = [], []

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,))
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                self._connections.append(connection.dup())
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while len(header := stream.read(HEADER.size)) == HEADER.size:
                    length, number, _, _ = HEADER.unpack(header)
                    request = Request.FromString(stream.read(length))
                    self.envelopes.append(ForwardRequest.FromString(request.payload).envelope)
                    payload = Response().SerializeToString()
                    connection.sendall(HEADER.pack(len(payload), number, 2, 0) + payload)
            except OSError:
                return  # the shim has gone, or was hung up on

    @property
    def topics(self) -> list[str]:
        return [envelope.topic for envelope in self.envelopes]

    def wait(self, topic: str, count: int = 1) -> None:
        """Wait until a topic has come so often."""
        wait_until(lambda: self.topics.count(topic) >= count, f"{count} {topic} in {self.topics}")

    def exits(self) -> dict[str, task_events_pb2.TaskExit]:
        """The exits told so far, by process id."""
        found = [e.event for e in self.envelopes if e.topic == "/tasks/exit"]
        events = [task_events_pb2.TaskExit.FromString(event.value) for event in found]
        return {event.id: event for event in events}


class Shim:
    """A started shim and a connection to it."""

    def __init__(self, host: ShimHost, bundle: Bundle, address: str) -> None:
        self.host = host
        self.bundle = bundle
        self.address = address
        self.client = Ttrpc(address.removeprefix("unix://"))

    def send(self, name: str, **fields: Any) -> int:
        return self.client.send(name, METHODS[name].request(**{"id": self.bundle.id, **fields}))

    def receive(self, name: str, stream: int) -> Any:
        """Raises TaskError."""
        response = self.client.receive(stream)
        if response.status.code:
            raise TaskError(response.status.code, response.status.message)
        return METHODS[name].response.FromString(response.payload)

    def task(self, name: str, **fields: Any) -> Any:
        """Call and wait for the answer. Raises TaskError."""
        return self.receive(name, self.send(name, **fields))

    def create(self, **fields: Any) -> int:
        """Create with the bundle's FIFOs; returns the init's pid."""
        streams = {name: str(fifo.path) for name, fifo in self.bundle.streams.items() if name in STDIO}
        options = self.host.options()
        request = shim_pb2.CreateTaskRequest(
            id=self.bundle.id, bundle=str(self.bundle.path), **{**streams, **fields}
        )
        request.options.type_url = OPTIONS
        request.options.value = options.SerializeToString()
        stream = self.client.send("Create", request)
        return int(self.receive("Create", stream).pid)

    def exec(
        self, exec_id: str, args: Sequence[str], capabilities: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Add a process."""
        document = process(args)
        if capabilities is not None:
            document["capabilities"] = capabilities
        request = shim_pb2.ExecProcessRequest(id=self.bundle.id, exec_id=exec_id, **fields)
        request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        request.spec.value = json.dumps(document).encode()
        self.receive("Exec", self.client.send("Exec", request))

    def run_to_exit(self) -> int:
        """Start, and wait for the end."""
        self.task("Start")
        return int(self.task("Wait").exit_status)

    @property
    def pid(self) -> int:
        return int(self.task("Connect").shim_pid)

    def crash(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        assert self.client.is_closed()
        assert has_ended(pid, TIMEOUT), "its connections may be closed before its socket"

    def shutdown(self) -> None:
        self.task("Delete")
        self.task("Shutdown")
        assert self.client.is_closed()


STDIO: Final = ("stdin", "stdout", "stderr")


class Zygote:
    """The caller's side of the zygote's contract."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.caller, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.caller.settimeout(TIMEOUT)
        with theirs:
            command = [sys.executable, "-m", "cutaway.shim.zygote", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=dict(env))

    def ask(self, request: bytes, descriptors: Sequence[int]) -> None:
        socket.send_fds(self.caller, [request], list(descriptors))

    def reply(self) -> dict[str, Any]:
        found = json.loads(self.caller.recv(65536))
        assert isinstance(found, dict)
        return found

    def run(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, stdin: bytes = b"") -> Finished:
        """What subprocess.run would do by exec."""
        reader, writer = os.pipe()
        source = os.memfd_create("stdin")
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
        request = {"id": 1, "argv": list(argv), "env": dict(env), "cwd": os.fspath(cwd)}
        self.ask(json.dumps(request).encode(), (source, writer, writer))
        for fd in (writer, source):
            os.close(fd)
        replies = [self.reply(), self.reply()]
        with open(reader, "rb") as output:
            return Finished(replies[1]["exit"], output.read())

    def close(self) -> None:
        self.caller.close()
        self.process.wait(TIMEOUT)


@dataclass(frozen=True)
class Finished:
    """How a shim action ended; stdout and stderr together, as the container service reads them."""

    code: int
    output: bytes


class ShimHost:
    """What a container service is to its shims."""

    def __init__(
        self, base: Path, *, warm: bool = False, runtime: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        self.base = base
        self.address = base / "sock"
        self.namespace = base.name
        self.runtime = runtime or os.fspath(peer("runc"))
        self.root = base / "runtime"
        self.events = Events(f"{self.address}.ttrpc")
        self.env = {
            "PATH": os.pathsep.join(SYSTEM_PATH),
            "TTRPC_ADDRESS": self.events.path,
            "TMPDIR": os.fspath(base),
            **(env or {}),
        }
        self.zygote = Zygote(self.env) if warm else None
        self._shims: list[Shim] = []
        self._bundles: list[Bundle] = []
        self.rootfs = base / "image"
        unpack(self.rootfs)

    def options(self) -> runc_options_pb2.Options:
        return runc_options_pb2.Options(binary_name=self.runtime, root=os.fspath(self.root))

    def bundle(self, id: str, args: Sequence[str], *, terminal: bool = False, **changes: Any) -> Bundle:
        """A bundle with stdout and stderr, opened, and a root filesystem given by absolute path."""
        bundle = Bundle(self.base / "state" / id, id)
        self._bundles.append(bundle)
        bundle.path.mkdir(parents=True)
        os.mkfifo(bundle.path / "log", 0o700)
        document = spec(args, self.rootfs, f"/{self.namespace}-{id}", terminal=terminal)
        merge(document, changes)
        (bundle.path / "config.json").write_text(json.dumps(document))
        bundle.fifo("stdout").open()
        if not terminal:
            bundle.fifo("stderr").open()
        return bundle

    def command(
        self,
        bundle: Bundle,
        action: str,
        *flags: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a shim action in a bundle."""
        env = {**self.env, **(env or {})}
        argv = [
            os.fspath(PROGRAM),
            "-namespace", self.namespace,
            "-address", os.fspath(self.address),
            "-publish-binary", "/bin/false",
            "-id", bundle.id,
            *flags,
            action,
        ]  # fmt: skip
        if self.zygote is not None:
            return self.zygote.run(argv, env, bundle.path, stdin)
        done = subprocess.run(
            argv,
            cwd=bundle.path,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        return Finished(done.returncode, done.stdout)

    def start(self, bundle: Bundle) -> Shim:
        """By `start` with the runtime's options on stdin, as containerd gives them."""
        given = Any_(type_url=OPTIONS, value=self.options().SerializeToString())
        done = self.command(bundle, "start", stdin=given.SerializeToString())
        assert done.code == 0, done.output
        return self.connect(bundle, done.output.decode())

    def connect(self, bundle: Bundle, address: str) -> Shim:
        """Speak to a shim that listens."""
        shim = Shim(self, bundle, address)
        self._shims.append(shim)
        return shim

    def reconnect(self, shim: Shim) -> Shim:
        """A second connection, as a restarted service makes it from the bundle alone."""
        return self.connect(shim.bundle, (shim.bundle.path / "address").read_text())

    def delete(self, bundle: Bundle) -> shim_pb2.DeleteResponse:
        """The clean-up after a shim."""
        done = self.command(bundle, "delete", "-bundle", os.fspath(bundle.path))
        assert done.code == 0, done.output
        return shim_pb2.DeleteResponse.FromString(done.output)

    def close(self) -> None:
        for shim in self._shims:
            shim.client.close()
        for bundle in self._bundles:
            for fifo in bundle.streams.values():
                fifo.close()
        if self.zygote is not None:
            self.zygote.close()
        self.events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
