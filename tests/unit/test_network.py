"""Addresses, ports and messages of the default network; its kernel side: tests/engine/test_network.py."""

from __future__ import annotations

import ipaddress
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from cutaway.engine.network import netlink, pool, ports
from cutaway.engine.network.model import Endpoint, PortMapping, mac_of
from cutaway.engine.network.service import checked_mac
from cutaway.engine.network.store import EndpointStore
from cutaway.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

Binding = namedtuple("Binding", "host_ip host_port")

SMALL = ipaddress.IPv4Network("10.9.0.0/29")
GATEWAY = ipaddress.IPv4Address("10.9.0.1")


def endpoint(number: int, address: str) -> Endpoint:
    return Endpoint(
        f"{number:064x}", "bridge", address=address, ports=(PortMapping(80, "tcp", "0.0.0.0", 8080),)
    )


def test_attributes_are_padded_and_read_back() -> None:
    data = netlink.attr(3, "eth0") + netlink.attr(5, 7) + netlink.nest(9, netlink.attr(1, b"x"))
    assert len(data) % 4 == 0
    found = dict(netlink.attributes(data))
    assert found[3] == b"eth0\0"
    assert found[5] == (7).to_bytes(4, "little")
    assert dict(netlink.attributes(found[9])) == {1: b"x"}


def test_a_torn_attribute_ends_the_list() -> None:
    assert list(netlink.attributes(b"\x01\x00\x00\x00\x00")) == []


def test_the_mac_is_docker_s() -> None:
    assert mac_of(ipaddress.IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


@pytest.mark.parametrize(
    "mac", ["02:42:ac:11:00", "02:42:ac:11:00:0g", "", "0242ac110002", "01:00:5e:00:00:01"]
)
def test_bad_macs(mac: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid MAC address"):
        checked_mac(mac)


def test_macs_in_any_spelling() -> None:
    assert checked_mac("02-42-AC-11-00-02") == "02:42:ac:11:00:02"


def test_the_network_avoids_what_is_routed_elsewhere() -> None:
    assert str(pool.choose("", [])) == "172.30.0.1/16"
    routed = [ipaddress.IPv4Network("172.30.5.0/24"), ipaddress.IPv4Network("172.31.0.0/16")]
    assert str(pool.choose("", routed)) == "172.20.0.1/16"
    with pytest.raises(ResourceExhausted, match="--bip"):
        pool.choose("", [ipaddress.IPv4Network("0.0.0.0/1"), ipaddress.IPv4Network("128.0.0.0/1")])


def test_bip() -> None:
    assert str(pool.choose("10.1.2.3/24", [])) == "10.1.2.3/24"
    for bad in ("10.1.2.3", "10.1.2.0/24", "10.1.2.255/24", "10.1.2.1/30", "fd00::1/64", "x"):
        with pytest.raises(InvalidArgument, match="--bip"):
            pool.parse(bad)


def test_addresses_are_given_in_turn_and_not_at_once_again() -> None:
    store = EndpointStore(":memory:")
    given = []
    for number in range(3):
        address = store.next_address(SMALL, [GATEWAY])
        store.put(endpoint(number, str(address)))
        given.append(str(address))
    assert given == ["10.9.0.2", "10.9.0.3", "10.9.0.4"]
    store.delete(f"{0:064x}")
    assert str(store.next_address(SMALL, [GATEWAY])) == "10.9.0.5"
    store.put(endpoint(5, "10.9.0.5"))
    assert str(store.next_address(SMALL, [GATEWAY])) == "10.9.0.6"
    store.put(endpoint(6, "10.9.0.6"))
    assert str(store.next_address(SMALL, [GATEWAY])) == "10.9.0.2"  # freed, and the others are taken
    store.put(endpoint(2, "10.9.0.2"))
    store.put(endpoint(9, "10.9.0.4"))
    with pytest.raises(ResourceExhausted, match="no available IPv4 addresses"):
        store.put(endpoint(10, str(store.next_address(SMALL, [GATEWAY]))))
        store.next_address(SMALL, [GATEWAY])


def test_endpoints_outlive_the_process(tmp_path: Path) -> None:
    first = EndpointStore(tmp_path / "db")
    first.put(endpoint(1, "10.9.0.2"))
    first.close()
    second = EndpointStore(tmp_path / "db")
    assert second.all() == [endpoint(1, "10.9.0.2")]
    assert second.get(f"{1:064x}") == endpoint(1, "10.9.0.2")
    second.delete(f"{1:064x}")
    second.delete(f"{1:064x}")
    assert second.all() == []
    second.close()


def test_a_lent_connection_is_not_closed() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    EndpointStore(connection).close()
    assert connection.execute("SELECT count(*) FROM network_endpoints").fetchone() == (0,)
    connection.close()


def test_bindings_of_the_api() -> None:
    found = ports.parse(
        {
            "80/tcp": [Binding("", "8080"), Binding("127.0.0.1", "")],
            "53/udp": [Binding("0.0.0.0", "5353")],
            "9": None,
            "443/tcp": [Binding("::", "443")],
        }
    )
    assert found == [
        PortMapping(80, "tcp", "0.0.0.0", 8080),
        PortMapping(80, "tcp", "127.0.0.1", 0),
        PortMapping(53, "udp", "0.0.0.0", 5353),
    ]


@pytest.mark.parametrize(
    ("key", "binding"),
    [
        ("80/icmp", Binding("", "1")),
        ("x/tcp", Binding("", "1")),
        ("70000/tcp", Binding("", "1")),
        ("80/tcp", Binding("", "-1")),
        ("80/tcp", Binding("localhost", "1")),
    ],
)
def test_bad_bindings(key: str, binding: Binding) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        ports.parse({key: [binding]})


def test_a_held_port_is_taken_for_others() -> None:
    holder = ports.PortHolder()
    try:
        (first,) = holder.hold("one", [PortMapping(80, "tcp", "127.0.0.1", 0)])
        assert first.host_port
        with pytest.raises(FailedPrecondition, match="port is already allocated"):
            holder.hold("two", [PortMapping(81, "tcp", "127.0.0.1", first.host_port)])
        holder.release("one")
        assert holder.hold("two", [first]) == (first,)
    finally:
        holder.close()


def test_when_one_port_is_taken_none_is_held() -> None:
    holder = ports.PortHolder()
    try:
        (first,) = holder.hold("one", [PortMapping(80, "udp", "127.0.0.1", 0)])
        free = holder.hold("probe", [PortMapping(80, "udp", "127.0.0.1", 0)])[0]
        holder.release("probe")
        with pytest.raises(FailedPrecondition):
            holder.hold("two", [free, first])
        assert holder.hold("three", [free]) == (free,)
    finally:
        holder.close()
