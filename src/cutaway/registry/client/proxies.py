"""Which proxy a request goes through, by the rules of Go's programs, Docker's among them.

`HTTPS_PROXY` and `HTTP_PROXY` by the scheme of the URL, lower-case names as well; `NO_PROXY` is a list of
hosts (`example.com`: it and below; `.example.com`: only below), either with a port, addresses, networks, or
`*`. Loopback never goes through a proxy. Source: golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from cutaway import errors


@dataclass(frozen=True)
class Proxies:
    """The proxies for http and https URLs, empty for none, and the hosts reached without."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Proxies:
        def value(name: str) -> str:
            return environment.get(name.upper()) or environment.get(name) or ""

        return cls(value("http_proxy"), value("https_proxy"), value("no_proxy"))

    def check(self) -> None:
        """Raise `InvalidArgument` for a proxy that cannot be used."""
        for given in filter(None, (self.http, self.https)):
            _proxy_url(given)

    def of(self, url: URL) -> str | None:
        """The proxy for a URL, or None. Raises `InvalidArgument` for one that cannot be used."""
        given = self.https if url.scheme == "https" else self.http
        if not given or self._is_exempt((url.host or "").lower().rstrip("."), url.port or 0):
            return None
        return _proxy_url(given)

    def _is_exempt(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address and address.is_loopback):
            return True
        entries = [entry.strip().lower() for entry in self.no_proxy.split(",")]
        return any(entry and _covers(entry, host, address, port) for entry in entries)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _covers(entry: str, host: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, only = _host_and_port(entry)
    if only and only != str(port):
        return False
    if given := _address(name):
        return given == address
    if name.startswith("*."):
        name = name[1:]
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, colon, port = entry.partition(":")
    # More than one colon: an IPv6 address without brackets.
    return (entry, "") if not colon or ":" in port else (name, port)


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _proxy_url(given: str) -> str:
    """A proxy's URL; `HOST:PORT` alone is an http one."""
    try:
        url = URL(given if "://" in given else f"http://{given}")
        usable = url.scheme in ("http", "https") and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise errors.InvalidArgument("invalid proxy URL: expected http(s)://[USER:PASSWORD@]HOST[:PORT]")
    return str(url)


def without_password(given: str) -> str:
    """A proxy as it may be shown, masked as Docker does."""
    try:
        url = URL(given)
    except ValueError:
        return ""
    return str(url.with_user("xxxxx").with_password("xxxxx")) if url.user else given
