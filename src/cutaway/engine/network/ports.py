"""Published ports: reading the API's bindings, and holding host ports while they are published.

A port is held by a bound socket that nobody reads: the firewall takes the packets away before they
reach it, but another program that wants the port is told that it is taken, and so are we by its.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cutaway.engine.network.model import PROTOCOLS, PortMapping
from cutaway.errors import FailedPrecondition, InvalidArgument

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "sctp": socket.SOCK_STREAM}


class Binding(Protocol):
    """One of the API's PortBindings."""

    @property
    def host_ip(self) -> str: ...

    @property
    def host_port(self) -> str: ...


def parse(bindings: Mapping[str, Sequence[Binding] | None]) -> list[PortMapping]:
    """The API's `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`, in order.

    IPv6 addresses are passed over: the bridge has IPv4 only. Raises `InvalidArgument` for bad ones.
    """
    found = []
    for key, entries in bindings.items():
        number, _, protocol = key.partition("/")
        protocol = protocol or "tcp"
        if protocol not in PROTOCOLS:
            raise InvalidArgument(f"invalid port specification {key}: unknown protocol {protocol}")
        port = _number(number, key)
        for entry in entries or ():
            address = _address(entry.host_ip, key)
            if address is not None:
                host_port = _number(entry.host_port, key) if entry.host_port else 0
                found.append(PortMapping(port, protocol, address, host_port))
    return found


def _number(text: str, where: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise InvalidArgument(f"invalid port specification {where}: {text} is not a port (0 to 65535)")
    return int(text)


def _address(text: str, where: str) -> str | None:
    if not text:
        return "0.0.0.0"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid port specification {where}: {text} is not an address") from None
    return str(address) if address.version == 4 else None


class PortHolder:
    """The host ports of all containers, each held by a socket."""

    def __init__(self) -> None:
        self._held: dict[str, list[tuple[PortMapping, socket.socket]]] = {}

    def hold(self, container_id: str, wanted: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Take ports for a container; returns them with every 0 replaced by the port that was free.

        Raises `FailedPrecondition` in Docker's words when one is taken; then none is held.
        """
        taken: list[tuple[PortMapping, socket.socket]] = []
        try:
            for port in wanted:
                taken.append(self._bind(port))
        except BaseException:
            for _, held in taken:
                held.close()
            raise
        if taken:
            self._held[container_id] = taken
        return tuple(port for port, _ in taken)

    def release(self, container_id: str) -> None:
        for _, held in self._held.pop(container_id, ()):
            held.close()

    def close(self) -> None:
        for container_id in list(self._held):
            self.release(container_id)

    def _bind(self, port: PortMapping) -> tuple[PortMapping, socket.socket]:
        protocol = socket.IPPROTO_SCTP if port.protocol == "sctp" else 0
        held = socket.socket(socket.AF_INET, _KINDS[port.protocol], protocol)
        try:
            if port.protocol == "tcp":  # connections of the last run in TIME_WAIT do not take the port
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((port.host_ip, port.host_port))
            if port.protocol == "tcp":
                held.listen(1)  # without it SO_REUSEADDR would let another bind the port as well
            number: int = held.getsockname()[1]
            return PortMapping(port.container_port, port.protocol, port.host_ip, number), held
        except OSError as error:
            held.close()
            raise self._refusal(port, error) from None
        except BaseException:
            held.close()
            raise

    def _refusal(self, port: PortMapping, error: OSError) -> FailedPrecondition:
        start = "driver failed programming external connectivity on endpoint: "
        where = f"{port.host_ip}:{port.host_port}"
        ours = any(
            held.host_port == port.host_port and held.protocol == port.protocol
            for ports in self._held.values()
            for held, _ in ports
        )
        if error.errno == errno.EADDRINUSE and ours:
            return FailedPrecondition(f"{start}Bind for {where} failed: port is already allocated")
        reason = (error.strerror or str(error)).lower()
        return FailedPrecondition(f"{start}listen {port.protocol}4 {where}: bind: {reason}")
