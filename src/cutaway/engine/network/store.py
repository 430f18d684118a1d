"""Who has which address: one row for each container in a network, and where the next search begins.

    network_endpoints   container ▸ mode, namespace, address, MAC, veth, ports (JSON)
    network_cursor      network ▸ the address given last

Rows are written before anything of the container exists in the kernel and deleted after all of it is
gone, so that a restart after a crash at any point knows what there may be to clear away.
"""

from __future__ import annotations

import ipaddress
import json
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cutaway.engine.network.model import Endpoint, PortMapping
from cutaway.errors import ResourceExhausted
from cutaway.faults import point

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS network_endpoints (
    container_id TEXT PRIMARY KEY,
    address      TEXT NOT NULL,
    document     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS network_cursor (
    network TEXT PRIMARY KEY,
    address INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


class EndpointStore:
    """The tables, in the engine's own database or a file. Usable from any thread."""

    def __init__(self, db: sqlite3.Connection | Path | str) -> None:
        if isinstance(db, sqlite3.Connection):
            self._connection = db
        else:
            self._connection = sqlite3.connect(db, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        self._own = self._connection is not db
        self._lock = threading.Lock()
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        if self._own:
            self._connection.close()

    def get(self, container_id: str) -> Endpoint | None:
        with self._lock:
            query = "SELECT document FROM network_endpoints WHERE container_id = ?"
            row = self._connection.execute(query, (container_id,)).fetchone()
        return _endpoint(row[0]) if row else None

    def all(self) -> list[Endpoint]:
        with self._lock:
            rows = self._connection.execute(
                "SELECT document FROM network_endpoints ORDER BY container_id"
            ).fetchall()
        return [_endpoint(row[0]) for row in rows]

    def put(self, endpoint: Endpoint) -> None:
        row = (endpoint.container_id, endpoint.address, json.dumps(asdict(endpoint)))
        with self._lock:
            self._connection.execute("INSERT OR REPLACE INTO network_endpoints VALUES (?, ?, ?)", row)
        point("engine.network.endpoint-noted")

    def delete(self, container_id: str) -> None:
        with self._lock:
            self._connection.execute("DELETE FROM network_endpoints WHERE container_id = ?", (container_id,))
        point("engine.network.endpoint-forgotten")

    def next_address(
        self, network: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Address]
    ) -> ipaddress.IPv4Address:
        """The next free address after the one given last, around the network's end.

        Not the lowest: the kernel takes a container's interface apart some time after its end, and its
        neighbours remember it for a while; an address used again at once could lead there.
        Raises `ResourceExhausted` when all are given.
        """
        with self._lock:
            rows = self._connection.execute("SELECT address FROM network_endpoints WHERE address != ''")
            used = {int(ipaddress.IPv4Address(row[0])) for row in rows} | {int(address) for address in taken}
            last = self._connection.execute(
                "SELECT address FROM network_cursor WHERE network = ?", (str(network),)
            ).fetchone()
            first, hosts = int(network.network_address) + 1, network.num_addresses - 2
            start = last[0] + 1 - first if last else 0
            for step in range(hosts):
                candidate = first + (start + step) % hosts
                if candidate not in used:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO network_cursor VALUES (?, ?)", (str(network), candidate)
                    )
                    return ipaddress.IPv4Address(candidate)
        raise ResourceExhausted(
            f"no available IPv4 addresses on this network's address pools: bridge ({network}); "
            "remove containers or start the engine with a larger --bip"
        )


def _endpoint(document: str) -> Endpoint:
    values = json.loads(document)
    values["ports"] = tuple(PortMapping(**port) for port in values["ports"])
    return Endpoint(**values)
