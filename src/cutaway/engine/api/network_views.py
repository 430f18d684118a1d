"""A container's place in its network as Docker's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cutaway.engine.containers.model import Container

if TYPE_CHECKING:
    from cutaway.engine.network import Endpoint

_NO_ADDRESSES: dict[str, object] = {
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "MacAddress": "",
}


def network_name(container: Container) -> str:
    """The name of the container's network; empty when it shares another container's."""
    mode = container.host.network_mode
    if mode.startswith("container:"):
        return ""
    return "bridge" if mode == "default" else mode


def network_settings(container: Container) -> dict[str, object]:
    """`NetworkSettings` of inspect; the addresses are there twice, as Docker still has it."""
    endpoint = container.endpoint
    addresses = _addresses(endpoint)
    endpoint_id = endpoint.endpoint_id if endpoint else ""
    settings: dict[str, object] = {
        "Bridge": "",
        "SandboxID": endpoint_id,
        "SandboxKey": endpoint.namespace if endpoint else "",
        "Ports": _port_map(container),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": endpoint_id,
        **addresses,
        "Networks": {},
    }
    if name := network_name(container):
        settings["Networks"] = {
            name: {
                "IPAMConfig": None,
                "Links": None,
                "Aliases": None,
                "DriverOpts": None,
                "GwPriority": 0,
                "NetworkID": endpoint.network_id if endpoint else "",
                "EndpointID": endpoint_id,
                **addresses,
                "DNSNames": None,
            }
        }
    return settings


def _addresses(endpoint: Endpoint | None) -> dict[str, object]:
    if endpoint is None or not endpoint.address:
        return dict(_NO_ADDRESSES)
    return _NO_ADDRESSES | {
        "Gateway": endpoint.gateway,
        "IPAddress": endpoint.address,
        "IPPrefixLen": endpoint.prefix,
        "MacAddress": endpoint.mac,
    }


def _port_map(container: Container) -> Mapping[str, object]:
    """Ports of the container, with where they are published; null for those that are only exposed."""
    if container.endpoint is None:
        return {}
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(container.config.exposed_ports or {})
    for mapping in container.endpoint.ports:
        key = f"{mapping.container_port}/{mapping.protocol}"
        bound = found.get(key) or []
        found[key] = [*bound, {"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)}]
    return found


def ports(container: Container) -> list[dict[str, object]]:
    """`Ports` of a row of the list."""
    rows: list[dict[str, object]] = []
    for key, bound in _port_map(container).items():
        number, _, protocol = key.partition("/")
        row: dict[str, object] = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        if not isinstance(bound, list):
            rows.append(row)
            continue
        rows += [{"IP": b["HostIp"], **row, "PublicPort": int(b["HostPort"])} for b in bound]
    return rows
