"""Choosing the default bridge's network: one that nothing else on this machine leads to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from cutaway.errors import InvalidArgument, ResourceExhausted

# Private ranges of the sizes that Docker takes, and not those that it takes first itself.
CANDIDATES: Final = tuple(
    [ipaddress.IPv4Network(f"172.{number}.0.0/16") for number in (30, 31, *range(20, 30))]
    + [ipaddress.IPv4Network(f"192.168.{number}.0/24") for number in range(208, 256)]
)


def choose(bip: str, routed: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Interface:
    """The bridge's address and network: what --bip says, else the first candidate that is free."""
    if bip:
        return parse(bip)
    busy = list(routed)
    for network in CANDIDATES:
        if not any(network.overlaps(other) for other in busy):
            return ipaddress.IPv4Interface((network.network_address + 1, network.prefixlen))
    raise ResourceExhausted(
        "could not find an available, non-overlapping IPv4 address pool for the default bridge; "
        "choose one with --bip ADDRESS/PREFIX"
    )


def parse(bip: str) -> ipaddress.IPv4Interface:
    """Raises `InvalidArgument` for what is not the address of a host in an IPv4 network."""
    try:
        interface = ipaddress.IPv4Interface(bip)
    except ValueError as error:
        raise InvalidArgument(f"--bip {bip}: {error}") from None
    network = interface.network
    if "/" not in bip or network.prefixlen > 29:
        raise InvalidArgument(f"--bip {bip}: give a network of at least 8 addresses, e.g. 172.30.0.1/16")
    if interface.ip in (network.network_address, network.broadcast_address):
        raise InvalidArgument(f"--bip {bip}: the address is the network's own or its broadcast address")
    return interface
