"""The engine's networks: a container is attached at its start and detached at its end.

    service = NetworkService(settings, database)
    await service.setup()
    endpoint = await service.attach(id, "bridge", hostname, {"80/tcp": [binding]})
    ...                                     the runtime joins endpoint.namespace
    await service.detach(id)

Modes: `bridge` (the default network), `none` (a namespace with only loopback), `host` (no namespace).
`container:ID` is for the caller to resolve: it is another container's namespace.

Blocking work runs on one thread, which also keeps the kernel's view in one order. Detaching removes the
namespace at once and leaves the interface pair to the kernel, whose work that is when a namespace
ends; a second thread makes sure of it, as that takes 15 ms which nobody should wait for.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import hashlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

from cutaway.engine.network import model, ports, sandbox
from cutaway.engine.network.kernel import BridgeDriver
from cutaway.engine.network.model import BRIDGE, HOST, NONE, Endpoint, NetworkInfo, PortMapping
from cutaway.engine.network.store import EndpointStore
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound
from cutaway.trace.spans import span

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_BRIDGE: Final = "cutaway0"


class NetworkSettings(Protocol):
    """Of the engine's settings, what is needed here."""

    @property
    def exec_root(self) -> Path: ...
    @property
    def bip(self) -> str: ...
    @property
    def bridge(self) -> str: ...


class NetworkService:
    """See the module. Every method may raise the classes of `cutaway.errors`."""

    def __init__(self, settings: NetworkSettings, db: sqlite3.Connection | Path | str) -> None:
        self._bridge_name = settings.bridge or DEFAULT_BRIDGE
        self._disabled = settings.bridge == "none"
        self._own_bridge = not settings.bridge
        self._bip = settings.bip
        self._folder = settings.exec_root / "netns"
        self._store = EndpointStore(db)
        self._ports = ports.PortHolder()
        self._driver: BridgeDriver | None = None
        self._worker = ThreadPoolExecutor(1, "network")
        self._sweeper = ThreadPoolExecutor(1, "network-sweep")

    async def setup(self) -> None:
        """Bridge, forwarding and firewall; cheap when they are there."""
        with span("network setup", bridge=self._bridge_name) as now:
            if not self._disabled:
                await self._run(self._setup)
                assert self._driver is not None and self._driver.bridge is not None
                now.set(address=str(self._driver.bridge.interface))

    async def close(self) -> None:
        """End the threads; networks and containers stay as they are."""
        await asyncio.to_thread(self._worker.shutdown)
        await asyncio.to_thread(self._sweeper.shutdown)
        self._ports.close()
        if self._driver is not None:
            self._driver.close()
        self._store.close()

    async def attach(
        self,
        container_id: str,
        mode: str,
        hostname: str = "",
        port_bindings: Mapping[str, Sequence[ports.Binding] | None] | None = None,
        mac: str | None = None,
    ) -> Endpoint:
        """Give a container its place. After a failure nothing of it is left, in the kernel or stored.

        `hostname` is for networks with names of their own, which the default bridge is not.
        Raises `NotFound` for an unknown network, `FailedPrecondition` for a taken port or with
        --bridge=none, `ResourceExhausted` when no address is free.
        """
        with span("network attach", container=container_id, mode=mode) as now:
            if mode == HOST:
                return Endpoint(container_id, mode, network_id=network_id(mode))
            if mode not in (BRIDGE, NONE):
                raise NotFound(f"network {mode} not found")
            if mode == BRIDGE and self._disabled:
                raise FailedPrecondition("the bridge network is disabled (--bridge=none); use --network none")
            wanted = ports.parse(port_bindings or {}) if mode == BRIDGE else []
            endpoint, inode = await self._run(self._attach, container_id, mode, wanted, mac)
            now.set(netns=inode, namespace=endpoint.namespace)
            if endpoint.veth:
                now.set(
                    bridge=self._bridge_name,
                    veth=endpoint.veth,
                    ip=endpoint.address,
                    mac=endpoint.mac,
                    ports=" ".join(map(str, endpoint.ports)),
                )
            return endpoint

    async def detach(self, container_id: str) -> None:
        """Take a container out of its network; one that is in none is no error."""
        with span("network detach", container=container_id) as now:
            endpoint = await self._run(self._detach, container_id)
            if endpoint is not None and endpoint.veth:
                now.set(veth=endpoint.veth, ip=endpoint.address)
                self._sweep(endpoint.veth)

    async def reconcile(self, live_ids: Collection[str]) -> None:
        """After a restart: clear away what belongs to no live container, take the live ones' ports again."""
        with span("network reconcile", live=len(live_ids)):
            await self._run(self._reconcile, set(live_ids))

    def endpoint(self, container_id: str) -> Endpoint | None:
        """Where a container is, from the store; also after a restart of the engine."""
        return self._store.get(container_id)

    def networks(self) -> list[NetworkInfo]:
        """The three networks that there always are, as the API's `networks` needs them."""
        endpoints = self._store.all()

        def info(name: str, driver: str) -> NetworkInfo:
            members = tuple(endpoint for endpoint in endpoints if endpoint.mode == name)
            return NetworkInfo(network_id(name), name, driver, endpoints=members)

        bridge = info(BRIDGE, "bridge")
        if self._driver is not None and self._driver.bridge is not None:
            there = self._driver.bridge
            bridge = dataclasses.replace(
                bridge, subnet=str(there.network), gateway=str(there.gateway), interface=there.name
            )
        found = [info(HOST, "host"), info(NONE, "null")]
        return found if self._disabled else [bridge, *found]

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call on the worker thread, with this task's span as parent of those made there."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: context.run(work, *args, **kwargs))

    # On the worker thread:

    def _setup(self) -> None:
        if self._driver is None:
            self._driver = BridgeDriver(self._bridge_name, self._bip, self._own_bridge)
        self._driver.setup([entry for entry in self._store.all() if entry.ports])

    def _bridge(self) -> BridgeDriver:
        if self._driver is None or self._driver.bridge is None:
            self._setup()
        assert self._driver is not None
        return self._driver

    def _attach(
        self, container_id: str, mode: str, wanted: list[PortMapping], mac: str | None
    ) -> tuple[Endpoint, int]:
        if self._store.get(container_id) is not None:
            self._detach(container_id)
        namespace = str(self._folder / container_id[:12])
        endpoint = Endpoint(
            container_id, mode, namespace, network_id=network_id(mode), endpoint_id=secrets.token_hex(32)
        )
        try:
            if mode == BRIDGE:
                endpoint = self._addressed(endpoint, wanted, mac)
            self._store.put(endpoint)
            inode = self._add_sandbox(endpoint)
            if endpoint.ports:
                self._firewall_publish(endpoint)
        except BaseException:
            self._undo(endpoint)
            raise
        return endpoint, inode

    def _addressed(self, endpoint: Endpoint, wanted: list[PortMapping], mac: str | None) -> Endpoint:
        bridge = self._bridge().bridge
        assert bridge is not None
        held = self._ports.hold(endpoint.container_id, wanted)
        address = self._store.next_address(bridge.network, [bridge.gateway])
        return dataclasses.replace(
            endpoint,
            address=str(address),
            prefix=bridge.network.prefixlen,
            gateway=str(bridge.gateway),
            mac=checked_mac(mac) if mac else model.mac_of(address),
            veth=f"veth{endpoint.endpoint_id[:7]}",
            ports=held,
        )

    def _add_sandbox(self, endpoint: Endpoint) -> int:
        driver = self._driver or BridgeDriver(self._bridge_name, self._bip, self._own_bridge)
        self._driver = driver
        return driver.add_sandbox(endpoint)

    def _firewall_publish(self, endpoint: Endpoint) -> None:
        firewall = self._bridge().firewall
        assert firewall is not None
        firewall.publish(endpoint.address, endpoint.ports)

    def _undo(self, endpoint: Endpoint) -> None:
        """After a failed attach; the failure is what gets raised, so one in here is only logged."""
        try:
            self._remove(endpoint)
        except CutawayError as error:
            log.error("network of %s could not be cleared away: %s", endpoint.container_id[:12], error)
        if self._driver is not None:
            self._driver.delete_veth(endpoint.veth)

    def _detach(self, container_id: str) -> Endpoint | None:
        endpoint = self._store.get(container_id)
        if endpoint is not None:
            self._remove(endpoint)
        return endpoint

    def _remove(self, endpoint: Endpoint) -> None:
        if endpoint.ports and self._driver is not None and self._driver.firewall is not None:
            self._driver.firewall.unpublish(endpoint.ports)
        self._ports.release(endpoint.container_id)
        sandbox.remove(Path(endpoint.namespace))
        self._store.delete(endpoint.container_id)

    def _reconcile(self, live: set[str]) -> None:
        for endpoint in self._store.all():
            if endpoint.container_id not in live:
                log.info("clearing away the network of %s", endpoint.container_id[:12])
                self._undo(endpoint)
            elif endpoint.ports:
                self._retake_ports(endpoint)
        known = {Path(endpoint.namespace).name for endpoint in self._store.all()}
        for path in self._folder.glob("*"):
            if path.name not in known:
                sandbox.remove(path)

    def _retake_ports(self, endpoint: Endpoint) -> None:
        """Our sockets died with the last engine; a port that another program has by now is lost."""
        try:
            self._ports.hold(endpoint.container_id, endpoint.ports)
        except FailedPrecondition as error:
            log.warning("a published port of %s is lost: %s", endpoint.container_id[:12], error)
            if self._driver is not None and self._driver.firewall is not None:
                self._driver.firewall.unpublish(endpoint.ports)
            return
        self._firewall_publish(endpoint)

    def _sweep(self, veth: str) -> None:
        """Remove an interface pair in the background, should the kernel not have done so by then."""
        driver = self._driver
        if driver is None:
            return

        def sweep() -> None:
            try:
                driver.delete_veth(veth)
            except CutawayError as error:
                log.warning("%s", error)

        self._sweeper.submit(sweep)


def network_id(name: str) -> str:
    """64 hex digits that stay the same for a network of this machine."""
    seed = f"{os.uname().nodename}/{name}"
    return hashlib.sha256(seed.encode()).hexdigest()


def checked_mac(mac: str) -> str:
    """A MAC address in small letters with colons. Raises `InvalidArgument` for anything else."""
    parts = mac.lower().replace("-", ":").split(":")
    if len(parts) != 6 or any(len(part) != 2 or set(part) - set("0123456789abcdef") for part in parts):
        raise InvalidArgument(f"invalid MAC address: {mac}")
    if int(parts[0], 16) & 1:
        raise InvalidArgument(f"invalid MAC address: {mac} is a group's address, not one interface's")
    return ":".join(parts)
