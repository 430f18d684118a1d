"""nftables objects as netlink messages: what `nft` would send for the few expressions that we use.

Kernel: include/uapi/linux/netfilter/nf_tables.h. Numbers in attributes are big-endian there; a packet's
fields are compared as they lie in the packet.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from cutaway.engine.network.netlink import NLM_F_APPEND, NLM_F_CREATE, Message, attr, nest

_SUBSYSTEM: Final = 10 << 8
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEM, _DELELEM = 0, 2, 3, 6, 9, 12, 14
FAMILY_IPV4: Final = 2

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)  # hooks
DROP, ACCEPT = 0, 1

REG: Final = 8  # the first of the 32-bit registers; those after it are numbered on
_IIFNAME, _OIFNAME, _L4PROTO = 6, 7, 16
_CT_STATE, _CT_STATUS = 0, 2
ESTABLISHED_OR_RELATED: Final = 2 | 4
DST_NAT: Final = 0x20
_LOCAL: Final = 2  # RTN_LOCAL

# What sets hold, as userspace names it for listing; the kernel looks at the lengths only.
TYPE_ADDRESS, TYPE_PROTOCOL, TYPE_PORT = 7, 12, 13


def _be32(value: int) -> bytes:
    return struct.pack(">I", value)


def _header(res_id: int = 0, family: int = FAMILY_IPV4) -> bytes:
    """struct nfgenmsg."""
    return struct.pack(">BBH", family, 0, res_id)


def begin() -> Message:
    return Message(0x10, _header(10, 0), "begin a firewall transaction")


def end() -> Message:
    return Message(0x11, _header(10, 0), "commit a firewall transaction")


def add_table(table: str) -> Message:
    return _new(_NEWTABLE, attr(1, table), f"add the firewall table {table}")


def delete_table(table: str) -> Message:
    return Message(_SUBSYSTEM | _DELTABLE, _header() + attr(1, table), f"delete the firewall table {table}")


def add_base_chain(table: str, name: str, kind: str, hook: int, priority: int) -> Message:
    """A chain that the kernel enters at a hook, with the policy accept."""
    place = nest(4, attr(1, _be32(hook)), attr(2, struct.pack(">i", priority)))
    body = attr(1, table) + attr(3, name) + place + attr(5, _be32(ACCEPT)) + attr(7, kind)
    return _new(_NEWCHAIN, body, f"add the firewall chain {name}")


def add_rule(table: str, chain: str, *expressions: bytes) -> Message:
    body = attr(1, table) + attr(2, chain) + nest(4, *(nest(1, expression) for expression in expressions))
    return _new(_NEWRULE, body, f"add a rule to the firewall chain {chain}", NLM_F_APPEND)


def add_map(table: str, name: str, number: int, key: Sequence[int], value: Sequence[int]) -> Message:
    """A map between concatenations of types; every part takes four bytes."""
    flags = 0x08 | (0x80 if len(key) > 1 else 0)  # MAP, CONCAT
    body = attr(1, table) + attr(2, name) + attr(3, _be32(flags))
    body += attr(4, _be32(_concatenated(key))) + attr(5, _be32(4 * len(key)))
    body += attr(6, _be32(_concatenated(value))) + attr(7, _be32(4 * len(value)))
    if len(key) > 1:
        lengths = (nest(1, attr(1, _be32(4))) for _ in key)
        body += nest(9, nest(2, *lengths))
    body += attr(10, _be32(number))
    return _new(_NEWSET, body, f"add the firewall map {name}")


def _concatenated(types: Sequence[int]) -> int:
    joined = 0
    for kind in types:
        joined = joined << 6 | kind
    return joined


def add_element(table: str, name: str, key: bytes, value: bytes, what: str) -> Message:
    element = nest(1, nest(1, attr(1, key)), nest(2, attr(1, value)))
    body = attr(1, table) + attr(2, name) + nest(3, element)
    return _new(_NEWELEM, body, what)


def delete_element(table: str, name: str, key: bytes, what: str) -> Message:
    body = attr(1, table) + attr(2, name) + nest(3, nest(1, nest(1, attr(1, key))))
    return Message(_SUBSYSTEM | _DELELEM, _header() + body, what)


def _new(kind: int, body: bytes, what: str, flags: int = 0) -> Message:
    return Message(_SUBSYSTEM | kind, _header() + body, what, NLM_F_CREATE | flags)


# Expressions of rules: each loads into a register, tests one, or decides.


def _expression(name: str, *attributes: bytes) -> bytes:
    return attr(1, name) + nest(2, *attributes)


def _register(number: int) -> bytes:
    return _be32(number)


def _compare(value: bytes, equal: bool = True) -> bytes:
    return _expression(
        "cmp", attr(1, _register(1)), attr(2, _be32(0 if equal else 1)), nest(3, attr(1, value))
    )


def in_interface(name: str, equal: bool = True) -> list[bytes]:
    return [_meta(_IIFNAME, 1), _compare(name.encode().ljust(16, b"\0"), equal)]


def out_interface(name: str, equal: bool = True) -> list[bytes]:
    return [_meta(_OIFNAME, 1), _compare(name.encode().ljust(16, b"\0"), equal)]


def _meta(key: int, register: int) -> bytes:
    return _expression("meta", attr(1, _register(register)), attr(2, _be32(key)))


def _payload(base: int, offset: int, length: int, register: int) -> bytes:
    return _expression(
        "payload",
        attr(1, _register(register)),
        attr(2, _be32(base)),
        attr(3, _be32(offset)),
        attr(4, _be32(length)),
    )


def _masked(length: int, mask: bytes) -> bytes:
    zero = bytes(length)
    return _expression(
        "bitwise",
        attr(1, _register(1)),
        attr(2, _register(1)),
        attr(3, _be32(length)),
        nest(4, attr(1, mask)),
        nest(5, attr(1, zero)),
    )


def source_in(network: bytes, mask: bytes) -> list[bytes]:
    return [_payload(1, 12, 4, 1), _masked(4, mask), _compare(network)]


def destination_in(network: bytes, mask: bytes, equal: bool = True) -> list[bytes]:
    return [_payload(1, 16, 4, 1), _masked(4, mask), _compare(network, equal)]


def to_this_machine() -> list[bytes]:
    """The destination is one of the machine's own addresses (fib daddr type local)."""
    fib = _expression("fib", attr(1, _register(1)), attr(2, _be32(3)), attr(3, _be32(2)))
    return [fib, _compare(struct.pack("=I", _LOCAL))]


def ct_state(bits: int) -> list[bytes]:
    return _any_bit(_CT_STATE, bits)


def ct_status(bits: int) -> list[bytes]:
    return _any_bit(_CT_STATUS, bits)


def _any_bit(key: int, bits: int) -> list[bytes]:
    load = _expression("ct", attr(1, _register(1)), attr(2, _be32(key)))
    return [load, _masked(4, struct.pack("=I", bits)), _compare(bytes(4), equal=False)]


def verdict(code: int) -> bytes:
    return _expression("immediate", attr(1, _be32(0)), nest(2, nest(2, attr(1, _be32(code)))))


def masquerade() -> bytes:
    return _expression("masq")


def protocol_into(register: int) -> bytes:
    return _meta(_L4PROTO, register)


def destination_into(register: int) -> bytes:
    return _payload(1, 16, 4, register)


def destination_port_into(register: int) -> bytes:
    return _payload(2, 2, 2, register)


def look_up(name: str, number: int, source: int, target: int) -> bytes:
    """Find the key in registers from `source` on in a map; its value goes to those from `target` on."""
    return _expression(
        "lookup",
        attr(1, name),
        attr(2, _register(source)),
        attr(3, _register(target)),
        attr(4, _be32(number)),
    )


def dnat(address: int, port: int) -> bytes:
    """Send the packet on to the address and port in two registers."""
    return _expression(
        "nat",
        attr(1, _be32(1)),
        attr(2, _be32(FAMILY_IPV4)),
        attr(3, _register(address)),
        attr(5, _register(port)),
    )
