"""What the network part hands out and takes in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

BRIDGE, HOST, NONE, CONTAINER = "bridge", "host", "none", "container:"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A published port: `host_ip:host_port` of this machine leads to `container_port`."""

    container_port: int
    protocol: str  # tcp, udp, sctp
    host_ip: str = "0.0.0.0"
    host_port: int = 0  # 0: any free one

    def __str__(self) -> str:
        return f"{self.host_ip}:{self.host_port}->{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in a network; empty strings where the mode has no such thing.

    `namespace` is the path of its network namespace: "" for the host's.
    """

    container_id: str
    mode: str
    namespace: str = ""
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    mac: str = ""
    network_id: str = ""
    endpoint_id: str = ""
    veth: str = ""
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network, as the API lists it."""

    id: str
    name: str
    driver: str
    subnet: str = ""
    gateway: str = ""
    interface: str = ""
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Bridge:
    """The default bridge: the interface's name and its own address with the network's prefix."""

    name: str
    interface: ipaddress.IPv4Interface
    index: int = 0

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return self.interface.ip

    @property
    def network(self) -> ipaddress.IPv4Network:
        return self.interface.network


PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}


def mac_of(address: ipaddress.IPv4Address) -> str:
    """The address that Docker gives an interface: 02:42 (locally administered) and the IPv4 address."""
    return (b"\x02\x42" + address.packed).hex(":")
