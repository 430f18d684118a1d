"""What the registry client is told once, and where a registry is: addresses, credentials, limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from cutaway.registry.reference import DEFAULT_DOMAIN

DOCKER_HUB: Final = "https://registry-1.docker.io"
MAX_MANIFEST: Final = 4 << 20  # bytes; the distribution spec's own recommendation
MAX_TOKEN_REPLY: Final = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """How to log in at a registry; all empty means anonymously."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    """A bearer token that the caller has got by itself."""


ANONYMOUS: Final = Credentials()


@dataclass(frozen=True)
class ClientSettings:
    """Settings of a registry client; times are in seconds."""

    insecure_registries: frozenset[str] = frozenset()
    """`HOST[:PORT]` or networks in CIDR form that may be reached over plain HTTP or an unverified TLS."""
    docker_hub: str = DOCKER_HUB
    user_agent: str = "cutaway/0.1"
    connect_timeout: float = 15
    read_timeout: float = 60
    """How long a peer may send nothing."""
    retry_delays: tuple[float, ...] = (0.2, 1.0)
    """Pauses before each further attempt after a reset connection or a 5xx answer."""


@dataclass(frozen=True)
class Endpoint:
    """One registry: the base URLs to try in turn, or the Unix socket it listens on."""

    domain: str
    urls: tuple[str, ...]
    verify_tls: bool = True
    unix_socket: str = ""


def endpoint_of(domain: str, settings: ClientSettings) -> Endpoint:
    """Where the registry of a reference's domain is.

    Plain HTTP is tried (after HTTPS) only for loopback and for registries configured as insecure.
    """
    if domain == DEFAULT_DOMAIN:
        return Endpoint(domain, (settings.docker_hub,))
    if is_insecure(domain, settings.insecure_registries):
        return Endpoint(domain, (f"https://{domain}", f"http://{domain}"), verify_tls=False)
    return Endpoint(domain, (f"https://{domain}",))


def unix_endpoint(domain: str, path: str) -> Endpoint:
    """A registry that listens on a Unix socket and stands in for `domain`."""
    return Endpoint(domain, ("http://localhost",), unix_socket=path)


def is_insecure(domain: str, insecure: frozenset[str]) -> bool:
    """Whether plain HTTP is allowed: loopback always, others when listed by name, address or network."""
    host = domain[1 : domain.index("]")] if domain.startswith("[") else domain.partition(":")[0]
    if host == "localhost" or domain in insecure or host in insecure:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(insecure))


def _networks(names: frozenset[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(name, strict=False) for name in names if "/" in name]
