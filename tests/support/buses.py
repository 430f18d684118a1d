"""A D-Bus daemon of a test's own, and a systemd on it that does what a container needs and notes it down."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutaway.errors import CutawayError, DeadlineExceeded
from cutaway.linux.cgroups import detect, files, systemd
from cutaway.linux.cgroups.systemd_bus import MANAGER, NAME, PATH
from cutaway.linux.dbus import wire
from cutaway.linux.dbus.connection import BUS, BUS_PATH, Connection
from cutaway.linux.dbus.wire import Message, Variant
from support.peers import peer

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""


@contextmanager
def bus(place: Path) -> Iterator[str]:
    """A running bus; its address."""
    socket = place / "bus"
    (place / "bus.conf").write_text(CONFIG.format(socket=socket))
    command: list[str | Path] = [
        peer("dbus-daemon"),
        f"--config-file={place / 'bus.conf'}",
        "--nofork",
        "--print-address",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline()  # it listens
            yield f"unix:path={socket}"
        finally:
            daemon.terminate()


@dataclass
class Systemd:
    """`org.freedesktop.systemd1` as far as a container sees it: units with their properties."""

    address: str
    units: dict[str, dict[str, Variant]] = field(default_factory=dict)
    set: dict[str, dict[str, Variant]] = field(default_factory=dict)  # by SetUnitProperties
    calls: list[str] = field(default_factory=list)
    result: str = "done"  # of jobs
    problem: str = ""
    _jobs: int = 0

    @contextmanager
    def running(self) -> Iterator[Systemd]:
        with Connection(self.address) as connection:
            connection.hello()
            assert connection.call(BUS, BUS_PATH, BUS, "RequestName", "su", [NAME, 0]) == [1]
            stop = threading.Event()
            thread = threading.Thread(target=self._serve, args=(connection, stop))
            thread.start()
            try:
                yield self
            finally:
                stop.set()
                thread.join()
                for unit in list(self.units):
                    self._end(unit)
        assert not self.problem

    def _serve(self, connection: Connection, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                message = connection.receive(0.1)
            except DeadlineExceeded:
                continue
            if message.kind == wire.CALL:
                self._answer(connection, message)

    def _answer(self, connection: Connection, message: Message) -> None:
        member = message.text("member")
        self.calls.append(member)
        to = {"destination": message.text("sender"), "reply_serial": message.serial}
        try:
            signature, values, job = self._do(member, message.body)
        except CutawayError as error:
            failed = {**to, "error_name": f"{NAME}.{error}", "signature": "s"}
            connection.send(wire.ERROR, failed, wire.pack("s", [str(error)]))
            return
        connection.send(wire.RETURN, {**to, "signature": signature}, wire.pack(signature, values))
        if job:
            fields = {"path": PATH, "interface": MANAGER, "member": "JobRemoved", "signature": "uoss"}
            body = wire.pack("uoss", [self._jobs, values[0], job, self.result])
            connection.send(wire.SIGNAL, fields, body)

    def _do(self, member: str, body: list[Any]) -> tuple[str, list[Any], str]:
        """The answer's signature and values, and the unit that a job is done for."""
        if member == "Get":
            return "v", [Variant("s", {"Version": "252.38-1", "ControlGroup": ""}.get(body[1], "auto"))], ""
        if member == "StartTransientUnit":
            if body[0] in self.units:
                raise CutawayError("UnitExists")
            self.units[body[0]] = dict(body[2])
            if self.result == "done":
                self._begin(body[0])
        elif member == "StopUnit":
            if body[0] not in self.units:
                raise CutawayError("NoSuchUnit")
            self._end(body[0])
        elif member == "SetUnitProperties":
            assert body[1] is True
            self.set.setdefault(body[0], {}).update(body[2])
        if member not in ("StartTransientUnit", "StopUnit"):
            return "", [], ""
        self._jobs += 1
        return "o", [f"{PATH}/job/{self._jobs}"], body[0]

    def _directories(self, unit: str) -> list[str]:
        slice_ = self.units[unit]["Slice"].value
        layout = detect.layout()
        keys = [key for key in ("", "name=systemd") if key in layout.mounts]
        return [f"{layout.mounts[key]}{systemd.expand_slice(slice_)}/{unit}" for key in keys]

    def _begin(self, unit: str) -> None:
        for directory in self._directories(unit):
            files.make(directory)
            for pid in self.units[unit]["PIDs"].value:
                files.write_pid(directory, pid)

    def _end(self, unit: str) -> None:
        for directory in self._directories(unit):
            for pid in files.read_all_pids(directory):
                os.kill(pid, signal.SIGKILL)
            files.remove(directory)
        del self.units[unit]
