"""What the network service does to the kernel, blocking: bridge, firewall, sandboxes. No state of its own
but open sockets; called from the service's one worker thread.
"""

from __future__ import annotations

import errno
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cutaway.engine.network import links, netlink, pool, sandbox
from cutaway.engine.network.model import Bridge, Endpoint, mac_of
from cutaway.engine.network.ruleset import Firewall
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

INTERFACE: Final = "eth0"
_SYSCTL: Final = Path("/proc/sys/net")


class BridgeDriver:
    """The default bridge and the containers' ends of it, in the network namespace we run in."""

    def __init__(self, name: str, bip: str, own: bool) -> None:
        self._name = name
        self._bip = bip
        self._own = own  # a bridge given by --bridge is used as it is, never made or removed
        self._route = netlink.Netlink(netlink.ROUTE)
        self._netfilter = netlink.Netlink(netlink.NETFILTER)
        self.bridge: Bridge | None = None
        self.firewall: Firewall | None = None

    def close(self) -> None:
        self._route.close()
        self._netfilter.close()

    def setup(self, endpoints: Sequence[Endpoint] = ()) -> Bridge:
        """Bridge, sysctls and firewall, whatever of them is there; `endpoints` keep their ports."""
        self.bridge = self._find_bridge() or self._make_bridge()
        _sysctl("ipv4/ip_forward", "1")
        self._allow_loopback()
        self.firewall = Firewall(self._netfilter, self.bridge)
        self.firewall.install(endpoints)
        return self.bridge

    def _allow_loopback(self) -> None:
        """For ports on 127.0.0.1; see `ruleset` for what keeps the neighbours out."""
        _sysctl(f"ipv4/conf/{self._name}/route_localnet", "1")

    def _find_bridge(self) -> Bridge | None:
        found = next((link for link in links.links(self._route) if link.name == self._name), None)
        if found is None:
            if self._own:
                return None
            raise NotFound(
                f"--bridge {self._name}: there is no such interface; make it, or leave --bridge out"
            )
        present = links.addresses(self._route, found.index)
        wanted = pool.parse(self._bip) if self._bip else None
        if not present:
            wanted = wanted or pool.choose("", links.routed_networks(self._route))
            self._route.request([links.add_address(found.index, wanted)])
            present = [wanted]
        if wanted is not None and wanted not in present:
            raise FailedPrecondition(
                f"--bip {wanted}: the bridge {self._name} has the address {present[0]} already; "
                f"delete it first (ip link delete {self._name}) or start without --bip"
            )
        if not found.up:
            self._route.request([links.set_up(found.index, self._name)])
        return Bridge(self._name, wanted or present[0], found.index)

    def _make_bridge(self) -> Bridge:
        interface = pool.choose(self._bip, links.routed_networks(self._route))
        self._route.request([links.add_bridge(self._name, mac_of(interface.ip))])
        try:
            index = _index(self._name, self._route)
            self._route.request(
                [links.add_address(index, interface), links.set_up(index, f"the bridge {self._name}")]
            )
        except BaseException:
            self._route.request([links.delete_link(self._name)])
            raise
        return Bridge(self._name, interface, index)

    def add_sandbox(self, endpoint: Endpoint) -> int:
        """A container's namespace with its interface in it, ready; returns the namespace's inode number.

        On failure nothing of it is left.
        """
        path = Path(endpoint.namespace)
        sandbox.remove(path)  # what an earlier run of the same container may have left
        try:
            return self._create_sandbox(path, endpoint)
        except BaseException:
            self.delete_veth(endpoint.veth)
            raise

    def _create_sandbox(self, path: Path, endpoint: Endpoint) -> int:
        try:
            return sandbox.create(path, lambda namespace: self._inside(endpoint, namespace))
        except (InvalidArgument, NotFound):
            if not endpoint.veth or not self._bridge_is_gone():
                raise
        self._renew_bridge()
        return sandbox.create(path, lambda namespace: self._inside(endpoint, namespace))

    def _inside(self, endpoint: Endpoint, namespace: int) -> int:
        """Runs in the new namespace. The pair is made from outside (our sockets are there), by descriptor."""
        inode = os.fstat(namespace).st_ino
        with netlink.Netlink(netlink.ROUTE) as route:
            if not endpoint.veth:
                route.request([links.set_up(1, "lo")])
                return inode
            _no_ipv6()
            self._add_veth(endpoint, namespace)
            index = _index(INTERFACE, route)
            interface = ipaddress.IPv4Interface(f"{endpoint.address}/{endpoint.prefix}")
            route.request(
                [
                    links.set_up(1, "lo"),
                    links.add_address(index, interface),
                    links.set_up(index, INTERFACE),
                    links.add_default_route(ipaddress.IPv4Address(endpoint.gateway)),
                ]
            )
        return inode

    def _add_veth(self, endpoint: Endpoint, namespace: int) -> None:
        assert self.bridge is not None
        pair = links.add_veth(endpoint.veth, self.bridge.index, INTERFACE, endpoint.mac, namespace)
        self._route.request([pair, links.set_port_up(endpoint.veth)])

    def _bridge_is_gone(self) -> bool:
        assert self.bridge is not None
        return all(link.index != self.bridge.index for link in links.links(self._route))

    def _renew_bridge(self) -> None:
        """Somebody deleted the bridge under us: make it anew, as it was. The firewall goes by its name."""
        assert self.bridge is not None
        self._bip = str(self.bridge.interface)
        self.bridge = self._make_bridge()
        self._allow_loopback()

    def delete_veth(self, name: str) -> None:
        """Remove a pair by its end here; a missing one is no error. Takes the kernel some 15 ms."""
        if not name:
            return
        try:
            with netlink.Netlink(netlink.ROUTE) as route:
                route.request([links.delete_link(name)])
        except NotFound:
            return


def _index(name: str, route: netlink.Netlink) -> int:
    """The number of a link in the namespace of a socket."""
    return next(link.index for link in links.links(route) if link.name == name)


def _no_ipv6() -> None:
    """The bridge has IPv4 only; an interface that waits for router advertisements helps nobody."""
    for scope in ("all", "default"):
        if (_SYSCTL / f"ipv6/conf/{scope}/disable_ipv6").exists():
            _sysctl(f"ipv6/conf/{scope}/disable_ipv6", "1")


def _sysctl(name: str, value: str) -> None:
    """Write a switch unless it stands so already: /proc/sys may be read-only where it is right."""
    path = _SYSCTL / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        cls = (
            PermissionDenied
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
            else FailedPrecondition
        )
        raise cls(
            f"network: cannot set sysctl net.{name.replace('/', '.')} to {value}: {error.strerror}"
        ) from None
