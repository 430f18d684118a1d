"""A running shim: its calls and its log."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from google.protobuf.message import Message

from cutaway.containerd.tasks.bundles import Bundle
from cutaway.containerd.tasks.endpoint import LATEST, Endpoint
from cutaway.containerd.ttrpc.client import CLOSED, Client
from cutaway.errors import NotFound, Unavailable, Unknown
from cutaway.faults import point
from cutaway.pb import shim_pb2
from cutaway.pb.service import methods

log = logging.getLogger("containerd.shims")

_V2 = methods(shim_pb2.DESCRIPTOR, "Task")
# Version 3 has another name, and the same messages.
_V3 = {
    name: method._replace(service="containerd.task.v3.Task", path=f"/containerd.task.v3.Task/{name}")
    for name, method in _V2.items()
}

MAX_LOG_CHUNK = 1 << 16


class ShimLog:
    """The bundle's `log` FIFO, open for reading before the shim opens it for writing."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = f"{bundle.namespace}/{bundle.id}"
        try:
            # Also open for writing: otherwise every writer that goes leaves an endless end-of-file.
            self._descriptor = os.open(bundle.log, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.warning("%s: no log of the shim: %s", self._name, error)
            self._descriptor = -1
            return
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            lines = os.read(self._descriptor, MAX_LOG_CHUNK)
        except BlockingIOError:
            return
        for line in lines.decode(errors="replace").splitlines():
            log.info("%s: %s", self._name, line)

    def close(self) -> None:
        """Show what has not been shown; idempotent."""
        if self._descriptor >= 0:
            self._read()
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Shim:
    """One task's shim, connected."""

    def __init__(
        self, bundle: Bundle, binary: str, client: Client, shim_log: ShimLog, version: int = 2
    ) -> None:
        self.bundle = bundle
        self.binary = binary
        self.client = client
        self.pid = 0
        """The task's init process."""
        self.deleting = False
        """Set once its end is expected."""
        self.deletion = asyncio.Lock()
        self._methods = _V3 if version == LATEST else _V2
        self._log = shim_log

    @classmethod
    async def connect(cls, bundle: Bundle, binary: str, where: Endpoint, shim_log: ShimLog) -> Shim:
        """Raises `Unavailable`; the log is closed then."""
        try:
            client = await Client.connect(where.path)
            point("containerd.shims.connected")
            return cls(bundle, binary, client, shim_log, where.version)
        except BaseException:
            shim_log.close()
            raise

    @property
    def id(self) -> str:
        return self.bundle.id

    @property
    def namespace(self) -> str:
        return self.bundle.namespace

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.id

    async def call(self, name: str, request: Message, *, timeout: float | None = None) -> Any:
        """Call a method of the task service; raises what the shim answers with.

        When the shim ends meanwhile that is `Unknown`, as containerd has it.
        """
        try:
            point("containerd.shims.before-call")
            answer = await self.client.call(self._methods[name], request, timeout=timeout)
            point("containerd.shims.answered")
            return answer
        except Unavailable as error:
            if self.client.ended:
                raise Unknown(f"{CLOSED}: unknown") from None
            raise error

    async def state(self, exec_id: str, *, timeout: float) -> shim_pb2.StateResponse:
        """The state of the task or one of its execs. Raises `NotFound` without one, also if the shim ends."""
        request = shim_pb2.StateRequest(id=self.id, exec_id=exec_id)
        try:
            state: shim_pb2.StateResponse = await self.call("State", request, timeout=timeout)
        except Unknown as error:
            if self.client.ended:
                raise NotFound("not found") from None
            raise error
        return state

    def close(self) -> None:
        self.client.close()
        self._log.close()
