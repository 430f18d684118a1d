"""The default network in the kernel, each test in a network namespace of its own.

outside ── 203.0.113.0/24 ── the engine's namespace ── bridge ── containers
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import ipaddress
import os
import socket
import sqlite3
import threading
from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

from cutaway.engine.network import Endpoint, NetworkService, links, netlink, nftables, sandbox
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from support.netns import NetNs, on_a_thread
from support.process import wait_until

pytestmark = pytest.mark.root

T = TypeVar("T")
Binding = namedtuple("Binding", "host_ip host_port")

FIRST, SECOND, THIRD = (letter * 64 for letter in "abc")
ENGINE_OUTSIDE, OUTSIDE = "203.0.113.1", "203.0.113.2"
CLONE_NEWNET: Final = 0x40000000
RTM_DELADDR: Final = 21

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Settings:
    exec_root: Path
    bip: str = ""
    bridge: str = ""


@dataclass
class Network:
    """A service in a network namespace; every call of it runs in there."""

    folder: Path
    netns: NetNs
    settings: Settings

    def __post_init__(self) -> None:
        self.service = NetworkService(self.settings, self.folder / "network.db")
        self.loop = asyncio.new_event_loop()

    def do(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return self.netns.call(self.loop.run_until_complete, waited())

    def attach(self, container: str, mode: str = "bridge", **ports: tuple[str, str]) -> Endpoint:
        """Ports as `tcp80=("127.0.0.1", "8080")`."""
        bindings = {f"{key[3:]}/{key[:3]}": [Binding(*value)] for key, value in ports.items()}
        return self.do(self.service.attach(container, mode, "box", bindings))

    def detach(self, container: str) -> None:
        self.do(self.service.detach(container))

    def links(self) -> set[str]:
        return self.netns.call(link_names)

    def namespaces(self) -> set[str]:
        return {path.name for path in (self.settings.exec_root / "netns").glob("*")}

    def crash(self) -> Network:
        """The engine is killed (its sockets close, nothing else) and another starts over the same state."""
        self.service._ports.close()
        again = Network(self.folder, self.netns, self.settings)
        again.do(again.service.setup())
        return again

    def close(self) -> None:
        for endpoint in self.service._store.all():
            self.detach(endpoint.container_id)
        self.do(self.service.close())
        self.loop.close()


@pytest.fixture
def network(base_dir: Path, netns: NetNs) -> Iterator[Network]:
    network = Network(base_dir, netns, Settings(base_dir))
    network.do(network.service.setup())
    yield network
    network.close()


def link_names() -> set[str]:
    with netlink.Netlink(netlink.ROUTE) as route:
        return {link.name for link in links.links(route)}


def inside(endpoint: Endpoint, work: Callable[[], T]) -> T:
    """Call a function in a container's network namespace."""

    def enter_and_work() -> T:
        descriptor = os.open(endpoint.namespace, os.O_RDONLY)
        try:
            assert _libc.setns(descriptor, CLONE_NEWNET) == 0
        finally:
            os.close(descriptor)
        return work()

    return on_a_thread(enter_and_work)


@contextmanager
def server(run: Callable[[Callable[[], socket.socket]], socket.socket], port: int) -> Iterator[None]:
    """A TCP server that tells those who connect their address; `run` calls a function where it is to be."""

    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", port))

    listener = run(listen)

    def serve() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def ask(address: str, port: int, timeout: float = 5.0) -> str | None:
    """What a server says, or None when it cannot be reached."""
    try:
        with socket.create_connection((address, port), timeout) as connection:
            return connection.recv(100).decode()
    except OSError:
        return None


def in_container(endpoint: Endpoint) -> Callable[[Callable[[], socket.socket]], socket.socket]:
    return lambda work: inside(endpoint, work)


@pytest.fixture
def outside(network: Network) -> Iterator[NetNs]:
    """A neighbour of the engine's machine."""

    def connect(descriptor: int) -> None:
        bridge = links.add_bridge("wire", "02:00:00:00:00:01")
        with netlink.Netlink(netlink.ROUTE) as route:
            route.request([bridge])
            index = socket.if_nametoindex("wire")
            route.request(
                [
                    links.add_address(index, ipaddress.IPv4Interface(f"{ENGINE_OUTSIDE}/24")),
                    links.set_up(index, "wire"),
                    links.add_veth("wire-port", index, "eth0", "02:00:00:00:00:02", descriptor),
                    links.set_port_up("wire-port"),
                ]
            )

    def configure() -> None:
        with netlink.Netlink(netlink.ROUTE) as route:
            index = socket.if_nametoindex("eth0")
            route.request(
                [
                    links.add_address(index, ipaddress.IPv4Interface(f"{OUTSIDE}/24")),
                    links.set_up(index, "eth0"),
                    links.add_default_route(ipaddress.IPv4Address(ENGINE_OUTSIDE)),
                ]
            )

    with NetNs() as neighbour:
        descriptor = os.open(neighbour.path, os.O_RDONLY)
        network.netns.call(connect, descriptor)
        os.close(descriptor)
        neighbour.call(configure)
        yield neighbour


def test_an_endpoint_is_what_it_says(network: Network) -> None:
    endpoint = network.attach(FIRST)
    assert endpoint.address == "172.30.0.2"
    assert endpoint.gateway == "172.30.0.1"
    assert endpoint.mac == "02:42:ac:1e:00:02"
    assert {"cutaway0", endpoint.veth} <= network.links()

    def look() -> tuple[dict[str, tuple[str, bool]], list[str], str]:
        with netlink.Netlink(netlink.ROUTE) as route:
            found = {link.name: (link.mac, link.up) for link in links.links(route)}
            addresses = links.addresses(route, socket.if_nametoindex("eth0"))
        return found, list(map(str, addresses)), Path("/proc/thread-self/net/route").read_text()

    found, addresses, routes = inside(endpoint, look)
    assert found == {"lo": ("00:00:00:00:00:00", True), "eth0": (endpoint.mac, True)}
    assert addresses == ["172.30.0.2/16"]
    assert "eth0\t00000000\t01001EAC" in routes  # the default route, by the gateway


def test_none_has_only_loopback_and_host_nothing(network: Network) -> None:
    endpoint = network.attach(FIRST, "none")
    assert inside(endpoint, link_names) == {"lo"}
    assert endpoint.address == endpoint.veth == ""
    assert network.attach(SECOND, "host").namespace == ""
    with pytest.raises(NotFound, match="network mesh not found"):
        network.attach(THIRD, "mesh")


def test_containers_reach_each_other_and_the_machine(network: Network) -> None:
    first, second = network.attach(FIRST), network.attach(SECOND)
    with server(in_container(first), 80):
        assert inside(second, lambda: ask(first.address, 80)) == second.address
        assert network.netns.call(ask, first.address, 80) == first.gateway
    with server(network.netns.call, 81):
        assert inside(first, lambda: ask(first.gateway, 81)) == first.address


def test_outside_sees_the_machine_and_not_the_container(network: Network, outside: NetNs) -> None:
    endpoint = network.attach(FIRST)
    with server(outside.call, 80):
        assert inside(endpoint, lambda: ask(OUTSIDE, 80)) == ENGINE_OUTSIDE


def test_outside_reaches_published_ports_only(network: Network, outside: NetNs) -> None:
    endpoint = network.attach(FIRST, tcp80=("", "8080"))
    with server(in_container(endpoint), 80), server(in_container(endpoint), 8080):
        assert outside.call(ask, ENGINE_OUTSIDE, 8080) == OUTSIDE
        assert outside.call(ask, endpoint.address, 8080, 0.3) is None
        assert outside.call(ask, endpoint.address, 80, 0.3) is None
    network.detach(FIRST)
    assert outside.call(ask, ENGINE_OUTSIDE, 8080, 0.3) is None


def test_a_published_port_from_everywhere_inside(network: Network) -> None:
    first, second = network.attach(FIRST, tcp80=("", "8080")), network.attach(SECOND)
    with server(in_container(first), 80):
        assert network.netns.call(ask, "127.0.0.1", 8080) == first.gateway
        assert network.netns.call(ask, first.gateway, 8080) is not None
        assert inside(second, lambda: ask(first.gateway, 8080)) is not None
        assert inside(first, lambda: ask(first.gateway, 8080)) is not None


def test_a_port_on_one_address_only(network: Network, outside: NetNs) -> None:
    endpoint = network.attach(FIRST, tcp80=("127.0.0.1", "8080"))
    with server(in_container(endpoint), 80):
        assert network.netns.call(ask, "127.0.0.1", 8080) == endpoint.gateway
        assert network.netns.call(ask, endpoint.gateway, 8080, 0.3) is None
        assert outside.call(ask, ENGINE_OUTSIDE, 8080, 0.3) is None


def test_loopback_of_the_machine_is_closed_to_containers(network: Network) -> None:
    """A container that sends packets for 127.0.0.1 to us must not get in, though the bridge routes such."""

    def send_loopback_out() -> None:
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        add = links.add_address(1, ipaddress.IPv4Interface("127.0.0.1/8"))
        with netlink.Netlink(netlink.ROUTE) as route:
            route.request([dataclasses.replace(add, type=RTM_DELADDR, flags=0)])

    endpoint = network.attach(FIRST)
    inside(endpoint, send_loopback_out)
    with server(network.netns.call, 9090):
        assert inside(endpoint, lambda: ask("127.0.0.1", 9090, 0.3)) is None
        driver = network.service._driver
        assert driver is not None
        assert driver.firewall is not None
        driver.firewall.remove()
        assert inside(endpoint, lambda: ask("127.0.0.1", 9090)) == endpoint.address  # so it was the rule


def test_any_free_port(network: Network) -> None:
    endpoint = network.attach(FIRST, tcp80=("", ""))
    (port,) = endpoint.ports
    assert port.host_port
    with server(in_container(endpoint), 80):
        assert network.netns.call(ask, "127.0.0.1", port.host_port) == endpoint.gateway


def test_udp_is_published_too(network: Network) -> None:
    endpoint = network.attach(FIRST, udp53=("", "5353"))

    def bind() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("0.0.0.0", 53))
        listener.settimeout(5)
        return listener

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", 5353))

    with inside(endpoint, bind) as listener:
        network.netns.call(send)
        assert listener.recv(10) == b"hello"


def test_a_taken_port_leaves_nothing_of_the_attempt(network: Network) -> None:
    network.attach(FIRST, tcp80=("", "8080"))
    before = network.links(), network.namespaces(), len(network.service._store.all())
    with pytest.raises(
        FailedPrecondition, match=r"Bind for 0\.0\.0\.0:8080 failed: port is already allocated"
    ):
        network.attach(SECOND, tcp80=("", "8080"))
    with server(network.netns.call, 9090):
        with pytest.raises(FailedPrecondition, match="bind: address already in use"):
            network.attach(SECOND, tcp80=("", "9090"))
    assert (network.links(), network.namespaces(), len(network.service._store.all())) == before
    network.detach(FIRST)
    network.attach(SECOND, tcp80=("", "8080"))


@pytest.mark.parametrize("step", ["add_veth", "add_address", "add_default_route", "set_port_up"])
def test_a_failure_at_any_step_leaves_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = network.links()

    def refused(*_: object) -> netlink.Message:
        return netlink.Message(9999, b"", "do what cannot be done")

    with monkeypatch.context() as patch:
        patch.setattr(links, step, refused)
        with pytest.raises(CutawayError, match="cannot do what cannot be done"):
            network.attach(FIRST, tcp80=("", "8080"))
    assert network.namespaces() == set()
    assert network.service._store.all() == []
    wait_until(lambda: network.links() == before, "the links are as before")
    assert network.attach(FIRST, tcp80=("", "8080")).ports


def test_detach_takes_all_away_and_may_be_repeated(network: Network) -> None:
    before = network.links()
    network.attach(FIRST, tcp80=("", "8080"))
    network.attach(SECOND, "none")
    for _ in range(2):
        network.detach(FIRST)
        network.detach(SECOND)
    assert network.namespaces() == set()
    assert network.service._store.all() == []
    wait_until(lambda: network.links() == before, "the links are as before")


def test_attaching_again_starts_afresh(network: Network) -> None:
    first = network.attach(FIRST)
    again = network.attach(FIRST)
    assert again.address != first.address
    assert network.namespaces() == {FIRST[:12]}
    assert inside(again, link_names) == {"lo", "eth0"}


def test_after_a_crash_the_dead_go_and_the_living_keep_their_ports(network: Network) -> None:
    living = network.attach(FIRST, tcp80=("", "8080"))
    network.attach(SECOND, tcp80=("", "8081"))
    stray = network.settings.exec_root / "netns/stray"
    stray.touch()
    again = network.crash()
    try:
        with server(in_container(living), 80):
            assert again.netns.call(ask, "127.0.0.1", 8080) == living.gateway
        again.do(again.service.reconcile({FIRST}))
        assert again.service._store.all() == [living]
        assert again.namespaces() == {FIRST[:12]}
        assert again.service.endpoint(FIRST) == living
        with server(in_container(living), 80):
            assert again.netns.call(ask, "127.0.0.1", 8080) == living.gateway
        with pytest.raises(FailedPrecondition, match="already allocated"):
            again.attach(THIRD, tcp80=("", "8080"))
        assert again.attach(THIRD, tcp80=("", "8081")).ports
    finally:
        again.detach(THIRD)
        again.do(again.service.close())
        again.loop.close()


def test_setup_may_be_repeated_and_mends_what_was_torn_down(network: Network) -> None:
    first = network.attach(FIRST)
    network.do(network.service.setup())
    assert network.netns.call(ask, first.address, 1, 0.3) is None  # refused, not unreachable

    def tear_down() -> None:
        with netlink.Netlink(netlink.ROUTE) as route:
            route.request([links.delete_link("cutaway0")])

    network.netns.call(tear_down)
    second = network.attach(SECOND)
    assert second.gateway == first.gateway
    with server(in_container(second), 80):
        assert network.netns.call(ask, second.address, 80) == second.gateway


def test_networks_are_listed(network: Network) -> None:
    endpoint = network.attach(FIRST)
    bridge, host, none = network.service.networks()
    assert (bridge.name, host.name, none.name) == ("bridge", "host", "none")
    assert (bridge.subnet, bridge.gateway, bridge.interface) == ("172.30.0.0/16", "172.30.0.1", "cutaway0")
    assert bridge.endpoints == (endpoint,)
    assert endpoint.network_id == bridge.id


def test_a_mac_of_ones_own(network: Network) -> None:
    endpoint = network.do(network.service.attach(FIRST, "bridge", mac="02-00-00-AA-BB-CC"))
    assert endpoint.mac == "02:00:00:aa:bb:cc"
    with pytest.raises(InvalidArgument, match="invalid MAC address"):
        network.do(network.service.attach(SECOND, "bridge", mac="nonsense"))
    assert network.namespaces() == {FIRST[:12]}


def test_bip(base_dir: Path, netns: NetNs) -> None:
    network = Network(base_dir, netns, Settings(base_dir, bip="10.77.0.1/24"))
    try:
        network.do(network.service.setup())
        assert network.attach(FIRST).address == "10.77.0.2"
    finally:
        network.close()
    other = Network(base_dir, netns, Settings(base_dir, bip="10.78.0.1/24"))
    with pytest.raises(FailedPrecondition, match=r"has the address 10\.77\.0\.1/24 already"):
        other.do(other.service.setup())
    other.close()


def test_no_bridge_network(base_dir: Path, netns: NetNs) -> None:
    network = Network(base_dir, netns, Settings(base_dir, bridge="none"))
    network.do(network.service.setup())
    assert network.links() == {"lo"}
    assert [entry.name for entry in network.service.networks()] == ["host", "none"]
    with pytest.raises(FailedPrecondition, match="--bridge=none"):
        network.attach(FIRST)
    assert inside(network.attach(SECOND, "none"), link_names) == {"lo"}
    network.close()


def test_a_bridge_that_is_not_there(base_dir: Path, netns: NetNs) -> None:
    network = Network(base_dir, netns, Settings(base_dir, bridge="br7"))
    with pytest.raises(NotFound, match="--bridge br7: there is no such interface"):
        network.do(network.service.setup())
    network.close()


def test_a_kernel_without_nf_tables(base_dir: Path, netns: NetNs, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(base_dir, netns, Settings(base_dir))
    unknown = netlink.Message(99 << 8, bytes(4), "add the firewall table")
    monkeypatch.setattr(nftables, "add_table", lambda table: unknown)
    with pytest.raises(CutawayError, match=r"cannot .*modprobe nf_tables.*--bridge=none"):
        network.do(network.service.setup())
    monkeypatch.undo()
    network.close()


def test_the_engine_s_own_connection_may_be_lent(base_dir: Path, netns: NetNs) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    network = Network(base_dir, netns, Settings(base_dir))
    network.service = NetworkService(network.settings, connection)
    network.do(network.service.setup())
    network.attach(FIRST)
    assert connection.execute("SELECT count(*) FROM network_endpoints").fetchone() == (1,)
    network.close()
    connection.close()


def test_a_sandbox_whose_work_fails_leaves_no_mount(base_dir: Path) -> None:
    path = base_dir / "netns/x"

    def fail(descriptor: int) -> None:
        assert sandbox.is_alive(path)
        raise FailedPrecondition("no")

    with pytest.raises(FailedPrecondition):
        sandbox.create(path, fail)
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()
