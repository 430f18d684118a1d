"""What the registry client is told once, and where a registry is: addresses, credentials, limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from yarl import URL

from cutaway import errors
from cutaway.registry.client.proxies import Proxies
from cutaway.registry.client.tls import DEFAULT_CERTS_DIR
from cutaway.registry.reference import DEFAULT_DOMAIN, is_domain

DOCKER_HUB: Final = "https://registry-1.docker.io"
DOCKER_HUB_INDEX: Final = "https://index.docker.io"
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
    registry_mirrors: tuple[str, ...] = ()
    """Base URLs that are asked for Docker Hub's images before Docker Hub is; see `check_mirror`."""
    certs_dir: Path = DEFAULT_CERTS_DIR
    """Authorities and client certificates, a folder for each `HOST[:PORT]`; see `tls`."""
    proxies: Proxies = field(default_factory=Proxies.of_environment)
    docker_hub: str = DOCKER_HUB
    search_index: str = DOCKER_HUB_INDEX
    """Where Docker Hub is searched."""
    user_agent: str = "cutaway/0.1"
    connect_timeout: float = 15
    read_timeout: float = 60
    """How long a peer may send nothing."""
    retry_delays: tuple[float, ...] = (0.2, 0.6, 1.8, 4.0)
    """Pauses before each further attempt after a reset connection or a 5xx answer; see `retries`."""
    longest_retry_after: float = 30
    """The longest time a registry may ask us to wait before another attempt."""
    max_resumes: int = 5
    """How often a blob that was cut is taken up again where it was."""


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


def mirror_endpoints(domain: str, settings: ClientSettings) -> tuple[Endpoint, ...]:
    """The mirrors to ask before the registry itself: Docker Hub's only, as in Docker."""
    if domain != DEFAULT_DOMAIN:
        return ()
    return tuple(_mirror(URL(text), settings) for text in settings.registry_mirrors)


def _mirror(url: URL, settings: ClientSettings) -> Endpoint:
    verify = not is_insecure(url.authority, settings.insecure_registries)
    return Endpoint(url.authority, (str(url).rstrip("/"),), verify_tls=verify)


def check_mirror(text: str) -> str:
    """A mirror's base URL, `http(s)://HOST[:PORT]/`; `InvalidArgument` in Docker's words for any other."""
    try:
        url = URL(text)
        host, _ = url.host, url.port
    except ValueError:
        raise errors.InvalidArgument(f'invalid mirror: "{text}" is not a valid URI') from None
    if url.scheme not in ("http", "https"):
        raise errors.InvalidArgument(f'invalid mirror: unsupported scheme "{url.scheme}" in "{text}"')
    if url.path not in ("", "/") or url.query_string or url.fragment:
        raise errors.InvalidArgument(f'invalid mirror: path, query, or fragment at end of the URI "{text}"')
    if url.user or url.password:
        shown = url.with_user("xxxxx").with_password("xxxxx") if url.password else url
        raise errors.InvalidArgument(f'invalid mirror: username/password not allowed in URI "{shown}"')
    if not host:
        raise errors.InvalidArgument(f'invalid mirror: "{text}" is not a valid URI')
    return text.rstrip("/") + "/"


def check_insecure(text: str) -> str:
    """`HOST[:PORT]` or a network in CIDR form, a scheme before it passed over as in Docker.

    Raises `InvalidArgument` for anything else.
    """
    bare = text.removeprefix("http://").removeprefix("https://")
    try:
        ipaddress.ip_network(bare, strict=False)
    except ValueError:
        if not is_domain(bare):
            raise errors.InvalidArgument(
                f"insecure registry {text} is not valid: expected HOST[:PORT] or a network such as 10.0.0.0/8"
            ) from None
    return bare


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
