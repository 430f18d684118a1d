"""The engine on the real containerd, the real shim and the real runc: what its own tests need."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.images import Image, busybox_image
from support.leftovers import temporary_base
from support.netns import NetNs
from support.process import wait_until
from support.stack import Containerd, OurEngine, RealContainerd

# With the real shim and runtime, so that a failure here is the engine's.
REAL_BELOW = ("--default-shim", "io.containerd.runc.v2", "--default-runtime", "runc")
NAMESPACE = "moby"


@dataclass(frozen=True)
class Stack:
    """An engine and what is below it."""

    engine: OurEngine
    containerd: Containerd
    netns: NetNs

    def docker(self, *arguments: str, check: bool = True, input: str | None = None) -> str:
        """What the real CLI prints on stdout."""
        return self.engine.docker(*arguments, check=check, input=input).stdout

    def fails(self, *arguments: str, input: str | None = None) -> tuple[int, str]:
        """Exit code and stderr of a CLI command that is to fail."""
        done = self.engine.docker(*arguments, check=False, input=input)
        assert done.returncode != 0, f"docker {' '.join(arguments)} succeeded"
        return done.returncode, done.stderr

    def inspect(self, name: str) -> dict[str, Any]:
        """GET /containers/NAME/json."""
        status, body = self.engine.request("GET", f"/containers/{name}/json")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def state(self, name: str) -> str:
        text: str = self.inspect(name)["State"]["Status"]
        return text

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer of an API request; None for no body."""
        status, answer = self.engine.request(method, path, body)
        return status, json.loads(answer) if answer.strip() else None

    def wait_state(self, name: str, status: str) -> None:
        wait_until(lambda: self.state(name) == status, f"{name} is {status}", timeout=20)

    def wait_log(self, name: str, text: str) -> None:
        """Wait until a container has logged something."""
        wait_until(lambda: text in self.docker("logs", name), f"{name} logs {text!r}", timeout=20)

    def load(self, image: Image, name: str) -> None:
        """Give the engine an image by way of its containerd."""
        archive = self.containerd.folder / "image.tar"
        archive.write_bytes(image.oci_archive(name))
        self.containerd.ctr(
            "images", "import", "--base-name", name.rpartition(":")[0], str(archive), namespace=NAMESPACE
        )
        archive.unlink()

    def remove_all(self) -> None:
        """Remove every container."""
        for container in self.ask("GET", "/containers/json?all=1")[1]:
            self.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")


@contextmanager
def stack(
    arguments: Sequence[str] = REAL_BELOW,
    path_prefix: Sequence[Path] = (),
    below: type[Containerd] = RealContainerd,
) -> Iterator[Stack]:
    """A stack of its own, with busybox in it; `path_prefix` is where containerd looks for a shim first."""
    with (
        temporary_base() as base,
        NetNs() as netns,
        below(base, netns, path_prefix) as containerd,
    ):
        with OurEngine(base, netns, containerd.address, arguments) as engine:
            made = Stack(engine, containerd, netns)
            made.load(busybox_image(), "docker.io/library/busybox:latest")
            yield made


class Hijack:
    """A hijacked connection, as a client's library makes one."""

    def __init__(self, path: Path, target: str, body: object = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        data = b"" if body is None else json.dumps(body).encode()
        kind = "application/json" if data else "text/plain"
        head = (
            f"POST {target} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + data)
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._socket.recv(4096)
        self.head, _, self._rest = self._rest.partition(b"\r\n\r\n")

    def __enter__(self) -> Hijack:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_input(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        while data := self._socket.recv(65536):
            self._rest += data
        return self._rest

    def read_until(self, text: bytes) -> bytes:
        while text not in self._rest:
            data = self._socket.recv(65536)
            assert data, f"ended before {text!r}: {self._rest!r}"
            self._rest += data
        return self._rest

    def frames(self) -> list[tuple[int, bytes]]:
        """Everything until the end, taken out of its frames."""
        data, found = self.read_to_end(), []
        while data:
            stream, size = struct.unpack(">BxxxI", data[:8])
            found.append((stream, data[8 : 8 + size]))
            data = data[8 + size :]
        return found
