"""Links, addresses and routes as netlink messages (rtnetlink(7)), and the few questions we ask of them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from cutaway.engine.network.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Netlink,
    attr,
    attributes,
    nest,
)

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 16, 17, 18, 20, 22, 24, 26
_ADDRESS, _IFNAME, _MASTER, _LINKINFO, _NET_NS_FD, _MTU = 1, 3, 10, 18, 28, 4  # IFLA_*
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER, _BRPORT_MODE = 1, 4
_IFF_UP: Final = 1
_CREATE: Final = NLM_F_CREATE | NLM_F_EXCL


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mac: str
    up: bool


def _info(index: int = 0, up: bool = False) -> bytes:
    """struct ifinfomsg."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, _IFF_UP if up else 0)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def add_bridge(name: str, mac: str) -> Message:
    """A bridge with a MAC of its own: without one it has its lowest port's, which changes with the ports."""
    body = _info() + attr(_IFNAME, name) + attr(_ADDRESS, mac_bytes(mac))
    body += nest(_LINKINFO, attr(_INFO_KIND, "bridge"))
    return Message(_NEWLINK, body, f"create the bridge {name}", _CREATE)


def add_veth(name: str, master: int, peer: str, peer_mac: str, namespace: int) -> Message:
    """A pair: `name` here, up and on the bridge; `peer` made right inside the namespace of a descriptor."""
    other = _info() + attr(_IFNAME, peer) + attr(_ADDRESS, mac_bytes(peer_mac)) + attr(_NET_NS_FD, namespace)
    info = nest(_LINKINFO, attr(_INFO_KIND, "veth"), nest(_INFO_DATA, attr(_VETH_PEER | 0x8000, other)))
    body = _info() + attr(_IFNAME, name) + attr(_MASTER, master) + info
    return Message(_NEWLINK, body, f"create the veth pair {name} and {peer}", _CREATE)


def set_up(index: int, what: str) -> Message:
    return Message(_NEWLINK, _info(index, up=True), f"set {what} up")


def delete_link(name: str) -> Message:
    return Message(_DELLINK, _info() + attr(_IFNAME, name), f"delete the link {name}")


def add_address(index: int, interface: ipaddress.IPv4Interface) -> Message:
    """struct ifaddrmsg; local, address and broadcast as `ip addr add` sets them."""
    body = struct.pack("=BBBBI", socket.AF_INET, interface.network.prefixlen, 0, 0, index)
    body += attr(2, interface.ip.packed) + attr(1, interface.ip.packed)  # IFA_LOCAL, IFA_ADDRESS
    body += attr(4, interface.network.broadcast_address.packed)  # IFA_BROADCAST
    return Message(_NEWADDR, body, f"give an interface the address {interface}", _CREATE)


def add_default_route(gateway: ipaddress.IPv4Address) -> Message:
    """struct rtmsg: table main, protocol boot, scope universe, unicast."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0) + attr(5, gateway.packed)
    return Message(_NEWROUTE, body, f"set the default route by {gateway}", _CREATE)


def links(netlink: Netlink) -> list[Link]:
    """Every link of the socket's namespace."""
    found = []
    for body in netlink.dump(_GETLINK, _info()):
        index, flags = struct.unpack_from("=iI", body, 4)
        values = dict(attributes(body[16:]))
        name = values.get(_IFNAME, b"").rstrip(b"\0").decode()
        found.append(Link(index, name, values.get(_ADDRESS, b"").hex(":"), bool(flags & _IFF_UP)))
    return found


def addresses(netlink: Netlink, index: int) -> list[ipaddress.IPv4Interface]:
    """The IPv4 addresses of one link."""
    found = []
    for body in netlink.dump(_GETADDR, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
        prefix, owner = body[1], struct.unpack_from("=I", body, 4)[0]
        values = dict(attributes(body[8:]))
        local = values.get(2) or values.get(1)
        if owner == index and local:
            found.append(ipaddress.IPv4Interface((local, prefix)))
    return found


def routed_networks(netlink: Netlink) -> list[ipaddress.IPv4Network]:
    """Where this machine's IPv4 routes lead, without default routes."""
    found = []
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    for route in netlink.dump(_GETROUTE, body):
        prefix, kind = route[1], route[7]
        destination = dict(attributes(route[12:])).get(1)
        if destination and prefix and kind == 1:
            found.append(ipaddress.IPv4Network((destination, prefix), strict=False))
    return found


def set_port_up(name: str) -> Message:
    """Set a bridge's port up, in hairpin mode: a container may reach its own published port.

    Where bridged frames pass the IP firewall (net.bridge.bridge-nf-call-iptables), such a packet turns
    round within the bridge, which forbids the port it came by without this.
    """
    hairpin = attr(_BRPORT_MODE, b"\x01")
    port = nest(_LINKINFO, attr(_INFO_SLAVE_KIND, "bridge"), nest(_INFO_SLAVE_DATA, hairpin))
    return Message(_NEWLINK, _info(up=True) + attr(_IFNAME, name) + port, f"set {name} up")
