"""Where a registry is, by containerd's `hosts.toml` below a folder that the client names (`ctr --hosts-dir`).

    FOLDER/HOST[_PORT_]/hosts.toml     or HOST:PORT, or _default
    server = "https://HOST"            asked last
    [host."https://MIRROR"]            asked before it, in order
      capabilities = ["pull", "resolve", "push"]
      skip_verify = true

Without a hosts.toml the folder is one of certificates, as Docker's. What we cannot obey is refused, not
passed over. Source: containerd's docs/hosts.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from yarl import URL

from cutaway.errors import InvalidArgument, Unimplemented
from cutaway.registry.client.settings import ClientSettings, Endpoint, endpoint_of

CAPABILITIES: Final = ("pull", "resolve", "push", "referrers")
_KNOWN: Final = ("capabilities", "skip_verify", "dial_timeout", "server", "host")


def endpoints(
    domain: str, folder: str, scheme: str, settings: ClientSettings, *, push: bool
) -> tuple[Endpoint, ...]:
    """The registries to ask in turn. Raises `InvalidArgument`, `Unimplemented`."""
    own = endpoint_of(domain, settings)
    if scheme:
        if scheme not in ("http", "https"):
            raise InvalidArgument(f"scheme {scheme!r} is neither http nor https")
        own = Endpoint(domain, (f"{scheme}://{domain}",), verify_tls=own.verify_tls)
    file = _find(domain, folder) if folder else None
    if file is None:
        return (own,)
    try:
        table = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{file}: {error}") from None
    _check(table, file)
    server = table.get("server")
    found = [
        _endpoint(name, entry, file)
        for name, entry in _table(table.get("host", {}), file).items()
        if _can(_table(entry, file), push, file)
    ]
    if _can(table, push, file):
        found.append(_endpoint(server, table, file) if server else own)
    if not found:
        raise InvalidArgument(f"{file}: no host for this: all of them lack the capability")
    return tuple(found)


def _find(domain: str, folder: str) -> Path | None:
    host, colon, port = domain.rpartition(":")
    names = [f"{host}_{port}_"] if colon else []
    for name in (*names, domain, "_default"):
        if (Path(folder) / name).is_dir():
            file = Path(folder) / name / "hosts.toml"
            return file if file.is_file() else None
    return None


def _table(value: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{file}: host must be a table")
    return value


def _check(table: Mapping[str, Any], file: Path) -> None:
    if others := [key for key in table if key not in _KNOWN]:
        raise Unimplemented(f"{file}: {others[0]} is not supported: not implemented")


def _can(table: Mapping[str, Any], push: bool, file: Path) -> bool:
    given = table.get("capabilities") or CAPABILITIES
    if not isinstance(given, list | tuple) or not set(given) <= set(CAPABILITIES):
        raise InvalidArgument(f"{file}: capabilities are {', '.join(CAPABILITIES)}, not {given!r}")
    return "push" in given if push else {"pull", "resolve"} <= set(given)


def _endpoint(address: Any, table: Mapping[str, Any], file: Path) -> Endpoint:
    _check(table, file)
    text = address if isinstance(address, str) else ""
    url = URL(text if "://" in text else f"https://{text}")
    if not url.host or url.scheme not in ("http", "https"):
        raise InvalidArgument(f"{file}: {address!r} is no registry's URL")
    base = str(url).rstrip("/").removesuffix("/v2")
    return Endpoint(url.authority, (base,), verify_tls=table.get("skip_verify") is not True)
