"""The files that Docker puts over a container's own: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cutaway.engine.containers.model import Container

_HOSTS: Final = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
# What Docker falls back to when the host resolves by a server on its own loopback.
_PUBLIC_SERVERS: Final = ("8.8.8.8", "8.8.4.4")
_RESOLV_CONF: Final = "/etc/resolv.conf"
# systemd-resolved(8): its stub's address, and the file that names the servers behind it.
_STUB: Final = ["127.0.0.53"]
_BEHIND_STUB: Final = "/run/systemd/resolve/resolv.conf"


@dataclass(frozen=True)
class ContainerFiles:
    """Where a container's files are on the host."""

    folder: Path

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    @property
    def hostname(self) -> Path:
        return self.folder / "hostname"

    @property
    def resolv_conf(self) -> Path:
        return self.folder / "resolv.conf"

    def log(self, container_id: str) -> Path:
        return self.folder / f"{container_id}-json.log"

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o710)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, container: Container, *, address: str, gateway: str, on_host: bool) -> None:
        """Write all three for a start. `address` is the container's, "" without a network of its own."""
        host = container.host
        hostname = container.config.hostname
        full = (
            f"{hostname}.{container.config.domainname} {hostname}"
            if container.config.domainname
            else hostname
        )
        _replace(self.hostname, f"{hostname}\n")
        known = _read("/etc/hosts") if on_host else _HOSTS
        lines = [f"{address}\t{full}"] if address else []
        lines += [_extra_host(entry, gateway) for entry in host.extra_hosts or ()]
        _replace(self.hosts, known + "".join(f"{line}\n" for line in lines))
        of_host = host_resolv_conf(follow_stub=not on_host)
        resolver = resolv_conf(of_host, host.dns, host.dns_search, host.dns_options, keep_local=on_host)
        _replace(self.resolv_conf, resolver)


def _extra_host(entry: str, gateway: str) -> str:
    """`name:address` or `name=address`; `host-gateway` stands for the host as the container sees it."""
    separator = "=" if "=" in entry else ":"
    name, _, address = entry.partition(separator)
    return f"{gateway or '127.0.0.1' if address == 'host-gateway' else address.strip('[]')}\t{name}"


def host_resolv_conf(path: str = _RESOLV_CONF, behind: str = _BEHIND_STUB, *, follow_stub: bool) -> str:
    """The host's resolv.conf; with `follow_stub`, of a host that only names systemd-resolved the file behind.

    The stub listens on the host's loopback alone, so that only the host's own network can use it.
    """
    text = _read(path)
    servers = [
        words[1] for line in text.splitlines() if (words := line.split())[:1] == ["nameserver"] and words[1:]
    ]
    return (_read(behind) or text) if follow_stub and servers == _STUB else text


def resolv_conf(
    of_host: str, servers: Iterable[str], search: Iterable[str], options: Iterable[str], *, keep_local: bool
) -> str:
    """The host's resolv.conf with what was asked for instead of its parts.

    A server on the host's loopback is out of reach from a network namespace of its own and left out.
    """
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in of_host.splitlines():
        key, *values = line.split("#")[0].split()[:8] or [""]
        if key in found:
            found[key] += values[:1] if key == "nameserver" else values
    nameservers = list(servers) or [s for s in found["nameserver"] if keep_local or not _is_loopback(s)]
    searched = [domain for domain in list(search) or found["search"] if domain != "."]
    chosen = list(options) or found["options"]
    lines = [f"search {' '.join(searched)}"] if searched else []
    lines += [f"nameserver {server}" for server in nameservers or _PUBLIC_SERVERS]
    lines += [f"options {' '.join(chosen)}"] if chosen else []
    return "".join(f"{line}\n" for line in lines)


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _replace(path: Path, text: str) -> None:
    """Write in place: the file may be bind-mounted into a container that is being restarted."""
    path.write_text(text)
    os.chmod(path, 0o644)


def host_name() -> str:
    return socket.gethostname()
