"""The firewall of the default bridge: one nftables table of our own, written and replaced as a whole.

    table ip NAME
    ├── chain prerouting    nat, dstnat     published ports, from outside and from containers
    ├── chain output        nat, dstnat     published ports, from this machine itself
    ├── chain postrouting   nat, srcnat     containers go out under the machine's address
    ├── chain forward       filter          in: answers and published ports only; out: all
    ├── chain guard         filter, raw     nothing from outside reaches 127.0.0.0/8 (see below)
    ├── map any             protocol, port          -> container's address, port
    └── map one             address, protocol, port -> container's address, port

A published port is an element of a map, so publishing changes no rule. Ports on 127.0.0.1 lead to
containers because the bridge routes loopback addresses (route_localnet); `guard` drops packets for
those from any interface but lo, which that switch would otherwise let in (the hole of CVE-2020-8558).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

from cutaway.engine.network import nftables as nft
from cutaway.engine.network.model import PROTOCOLS, Bridge, Endpoint, PortMapping
from cutaway.engine.network.netlink import Message, Netlink
from cutaway.errors import CutawayError, NotFound

_ANY, _ONE = "any", "one"
_ANY_ID, _ONE_ID = 1, 2
_LOOPBACK: Final = ipaddress.IPv4Network("127.0.0.0/8")
_DSTNAT, _SRCNAT, _FILTER, _RAW = -100, 100, 0, -300


class Firewall:
    """The table of one bridge; two engines in one network namespace have two, by their bridges' names."""

    def __init__(self, netlink: Netlink, bridge: Bridge) -> None:
        self._netlink = netlink
        self._bridge = bridge
        self.table = f"cutaway-{bridge.name}" if bridge.name != "cutaway0" else "cutaway"

    def install(self, endpoints: Sequence[Endpoint] = ()) -> None:
        """Put the table in place, instead of what an earlier engine may have left, in one transaction.

        The ports of `endpoints` are published in it, so that those of running containers never close.
        """
        # Adding first makes the deletion succeed whether or not it was there.
        start = [nft.add_table(self.table), nft.delete_table(self.table), nft.add_table(self.table)]
        owners = {_key(port): (entry.address, port) for entry in endpoints for port in entry.ports}
        ports = [self._element(address, port) for address, port in owners.values()]
        try:
            self._commit([*start, *self._maps(), *self._chains(), *self._rules(), *ports])
        except CutawayError as error:
            raise type(error)(
                f"{error}; the bridge network needs a kernel with nf_tables (modprobe nf_tables): "
                "without one start with --bridge=none"
            ) from None

    def remove(self) -> None:
        self._commit([nft.add_table(self.table), nft.delete_table(self.table)])

    def publish(self, address: str, ports: Sequence[PortMapping]) -> None:
        """Lead host ports to a container; again is no error. Raises `AlreadyExists` when one is taken."""
        if ports:
            self._commit([self._element(address, port) for port in ports])

    def _element(self, address: str, port: PortMapping) -> Message:
        name, key = _key(port)
        value = ipaddress.IPv4Address(address).packed + struct.pack(">Hxx", port.container_port)
        return nft.add_element(self.table, name, key, value, f"publish {port}")

    def unpublish(self, ports: Sequence[PortMapping]) -> None:
        """Undo `publish`; one that is not published is no error."""
        for port in ports:
            name, key = _key(port)
            try:
                self._commit([nft.delete_element(self.table, name, key, f"unpublish {port}")])
            except NotFound:
                continue

    def _commit(self, messages: Sequence[Message]) -> None:
        self._netlink.batch(nft.begin(), messages, nft.end())

    def _maps(self) -> list[Message]:
        target = (nft.TYPE_ADDRESS, nft.TYPE_PORT)
        port = (nft.TYPE_PROTOCOL, nft.TYPE_PORT)
        return [
            nft.add_map(self.table, _ANY, _ANY_ID, port, target),
            nft.add_map(self.table, _ONE, _ONE_ID, (nft.TYPE_ADDRESS, *port), target),
        ]

    def _chains(self) -> list[Message]:
        def chain(name: str, kind: str, hook: int, priority: int) -> Message:
            return nft.add_base_chain(self.table, name, kind, hook, priority)

        return [
            chain("prerouting", "nat", nft.PREROUTING, _DSTNAT),
            chain("output", "nat", nft.OUTPUT, _DSTNAT),
            chain("postrouting", "nat", nft.POSTROUTING, _SRCNAT),
            chain("forward", "filter", nft.FORWARD, _FILTER),
            chain("guard", "filter", nft.PREROUTING, _RAW),
        ]

    def _rules(self) -> list[Message]:
        bridge, network = self._bridge.name, self._bridge.network
        inside = nft.source_in(network.network_address.packed, network.netmask.packed)
        from_loopback = nft.source_in(_LOOPBACK.network_address.packed, _LOOPBACK.netmask.packed)
        to_loopback = nft.destination_in(_LOOPBACK.network_address.packed, _LOOPBACK.netmask.packed)
        accept, drop, masquerade = nft.verdict(nft.ACCEPT), nft.verdict(nft.DROP), nft.masquerade()
        came, goes = nft.in_interface(bridge), nft.out_interface(bridge)
        dnatted = nft.ct_status(nft.DST_NAT)
        rules: list[tuple[str, list[bytes]]] = [
            *((chain, lookup) for chain in ("prerouting", "output") for lookup in _published()),
            ("postrouting", [*inside, *nft.out_interface(bridge, equal=False), masquerade]),
            # A container that reaches a published port, its own too, and this machine by 127.0.0.1, must
            # seem to come from the bridge: the answer would go past the translation otherwise.
            ("postrouting", [*inside, *goes, *dnatted, masquerade]),
            ("postrouting", [*from_loopback, *goes, masquerade]),
            ("forward", [*goes, *nft.ct_state(nft.ESTABLISHED_OR_RELATED), accept]),
            ("forward", [*came, accept]),
            ("forward", [*goes, *dnatted, accept]),
            ("forward", [*goes, drop]),
            ("guard", [*nft.in_interface("lo", equal=False), *to_loopback, drop]),
        ]
        return [nft.add_rule(self.table, chain, *expressions) for chain, expressions in rules]


def _published() -> list[list[bytes]]:
    """The two look-ups: a port on one address, then a port on every address of this machine."""
    address, protocol, port = nft.REG, nft.REG + 1, nft.REG + 2
    found = nft.REG + 4
    keys = [nft.protocol_into(protocol), nft.destination_port_into(port)]
    one = [nft.destination_into(address), *keys, nft.look_up(_ONE, _ONE_ID, address, found)]
    any_of = [*nft.to_this_machine(), *keys, nft.look_up(_ANY, _ANY_ID, protocol, found)]
    return [[*lookup, nft.dnat(found, found + 1)] for lookup in (one, any_of)]


def _key(port: PortMapping) -> tuple[str, bytes]:
    key = struct.pack(">BxxxHxx", PROTOCOLS[port.protocol], port.host_port)
    if port.host_ip == "0.0.0.0":
        return _ANY, key
    return _ONE, ipaddress.IPv4Address(port.host_ip).packed + key
