"""A running shim: its calls, its log, and what happens when it ends."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from google.protobuf.message import Message

from cutaway.containerd.tasks.bundles import Bundle
from cutaway.containerd.ttrpc.client import Client
from cutaway.pb import shim_pb2
from cutaway.pb.service import methods

log = logging.getLogger("containerd.shims")

METHODS = methods(shim_pb2.DESCRIPTOR, "Task")

MAX_LOG_CHUNK = 1 << 16


class ShimLog:
    """The bundle's `log` FIFO, open for reading before the shim opens it for writing."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = f"{bundle.namespace}/{bundle.id}"
        # Also open for writing: otherwise every writer that goes leaves an endless end-of-file.
        self._descriptor = os.open(bundle.log, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            lines = os.read(self._descriptor, MAX_LOG_CHUNK)
        except BlockingIOError:
            return
        for line in lines.decode(errors="replace").splitlines():
            log.info("%s: %s", self._name, line)

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Shim:
    """One task's shim, connected."""

    def __init__(self, bundle: Bundle, binary: str, client: Client, shim_log: ShimLog | None) -> None:
        self.bundle = bundle
        self.binary = binary
        self.client = client
        self.pid = 0
        """The task's init process."""
        self.deleting = False
        """Set once its end is expected."""
        self._log = shim_log

    @property
    def id(self) -> str:
        return self.bundle.id

    @property
    def namespace(self) -> str:
        return self.bundle.namespace

    async def call(self, name: str, request: Message, *, timeout: float | None = None) -> Any:
        """Call a method of the task service; raises what the shim answers with."""
        return await self.client.call(METHODS[name], request, timeout=timeout)

    def close(self) -> None:
        self.client.close()
        if self._log is not None:
            self._log.close()
            self._log = None
