"""Whether an engine, the service below it and the machine tell the same: what is not so, in words."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crash.api import Api
from cutaway.engine.network import links, netlink
from cutaway.shim.address import path_for
from engine.engine_stack import NAMESPACE, Stack
from support.leftovers import cgroups, mounts_below
from support.peers import peer
from support.process import command_line, descendants, is_zombie, processes_of, wait_until
from support.storage import broken

LIVE = ("running", "paused")
# A shim's title is cut short; the engine names network namespaces by the beginning of an id.
_ID = re.compile(r"[0-9a-f]{12,64}")
_SHORT = 12


class Machine:
    """One stack, looked at from outside."""

    def __init__(self, on: Stack, api: Api) -> None:
        self.on = on
        self.api = api
        self.base = on.engine.folder.parent
        self.service, self.engine = on.containerd, on.engine
        self.ever: set[str] = set()
        """The ids of all containers that there have been."""
        self.mounts = set(mounts_below(self.base))
        self.links = self._links()

    def settle(self) -> None:
        """Wait until everything fits together."""
        found: list[str] = []

        def fits() -> bool:
            found[:] = self.wrong()
            return not found

        try:
            wait_until(fits, "all fits together", 30)
        except AssertionError:
            raise AssertionError(f"does not fit together: {found}") from None

    def wrong(self) -> list[str]:
        """Everything that does not fit together. What moves may look wrong for a moment."""
        try:
            listed = self.api.get("/containers/json?all=1")
            every = {one["Id"] for one in listed}
            live = {one["Id"] for one in listed if one["State"] in LIVE}
            self.ever |= every
            found = [f"{one['Names']} is {one['State']}" for one in listed if one["State"] not in STABLE]
            found += self._records(every, live)
            found += self._folders(every, live)
            found += self._kernel(live)
            found += self._processes(live)
            found += self._network(listed)
            return found + broken(self.service.root) + incomplete_images(self.service.root) + self._logs()
        except (OSError, sqlite3.Error, KeyError) as error:
            return [f"{error!r}"]

    def _records(self, every: set[str], live: set[str]) -> list[str]:
        with sqlite3.connect(self.service.root / "metadata.db") as database:
            containers = _column(database, "SELECT id FROM containers WHERE namespace = ?")
            active = _column(database, "SELECT name FROM snapshots WHERE namespace = ? AND kind != 3")
            # What was being made when somebody died goes when its lease expires.
            leased = _column(database, "SELECT id FROM lease_resources WHERE namespace = ?")
        database.close()
        tasks = self.service.ctr("task", "ls", "-q", namespace=NAMESPACE).stdout.split()
        return [
            *_differ("record", live, containers),
            *_differ("snapshot", every, active - leased),
            *_differ("task", live, tasks),
        ]

    def _folders(self, every: set[str], live: set[str]) -> list[str]:
        bundles = "io.containerd.runtime.v2.task"
        volumes = {one["Name"] for one in self.api.get("/volumes")["Volumes"] or ()}
        return [
            *_differ("container folder", every, _names(self.engine.root / "containers")),
            *_differ("folder of FIFOs", live, _ids(self.engine.exec_root / "containerd")),
            *_differ("volume folder", volumes, _names(self.engine.root / "volumes")),
            *_differ("runtime state", live, _names(self.engine.exec_root / "runtime" / NAMESPACE)),
            *_differ("bundle", live, _names(self.service.state / bundles / NAMESPACE)),
            *_differ("work folder", live, _names(self.service.root / bundles / NAMESPACE)),
            *_differ("mount point", (), _names(self.service.state / "mounts")),
            *_differ("shim socket", live, [one for one in self.ever if self._shim_socket(one).exists()]),
        ]

    def _shim_socket(self, id: str) -> Path:
        return Path(path_for(os.fspath(self.service.address), NAMESPACE, id))

    def _kernel(self, live: set[str]) -> list[str]:
        mounted = [one for one in mounts_below(self.base) if one not in self.mounts]
        short = _short(live)
        bare = [one for one in mounted if not (_ids_in(one) & short)]
        groups = {id for path in cgroups() for id in _ids_in(path) & _short(self.ever)}
        return [f"mount of nobody: {one}" for one in bare] + _differ("cgroup", short, groups)

    def _processes(self, live: set[str]) -> list[str]:
        tops = [self.service.pid, self.engine.pid]
        found = [f"zombie {pid} {command_line(pid)}" for pid in descendants(*tops) if is_zombie(pid)]
        shims, short = set[str](), _short(live)
        for pid, line in processes_of(self.base).items():
            if "shim-cutaway" in line and (ids := _ids_in(line)):
                if not ids & short:
                    found.append(f"process {pid} {line}")
                shims |= ids
        return found + [f"no shim of {id}" for id in short - shims]

    def _network(self, listed: Iterable[dict[str, Any]]) -> list[str]:
        bridged = {
            one["Id"] for one in listed if one["State"] in LIVE and one["HostConfig"]["NetworkMode"] in BRIDGE
        }
        veths = self._links() - self.links
        wrong = [f"{len(veths)} links of {len(bridged)} containers"] if len(veths) != len(bridged) else []
        published = [port for one in listed if one["State"] in LIVE for port in one["Ports"]]
        leads = self._published()
        if len(leads) != len(published):
            wrong.append(f"firewall {leads} of {published}")
        with sqlite3.connect(self.engine.root / "engine.db") as database:
            noted = {row[0] for row in database.execute("SELECT container_id FROM network_endpoints")}
        database.close()
        live = {one["Id"] for one in listed if one["State"] in LIVE}
        return wrong + [f"endpoint of {id}" for id in noted - live]

    def _links(self) -> set[str]:
        def names() -> set[str]:
            with netlink.Netlink(netlink.ROUTE) as route:
                return {link.name for link in links.links(route)}

        return self.on.netns.call(names)

    def _published(self) -> list[object]:
        said = self.on.netns.run([peer("nft"), "--json", "list", "ruleset"], env=self.engine.env).stdout
        maps = [entry["map"] for entry in json.loads(said)["nftables"] if "map" in entry]
        return [element for one in maps for element in one.get("elem", ())]

    def _logs(self) -> list[str]:
        return [
            f"{path}: {line}"
            for path in (self.service.log, self.engine.log)
            for line in path.read_text(errors="replace").splitlines()
            if line.startswith("Traceback") or "never retrieved" in line or "never awaited" in line
        ]


STABLE = ("created", "exited", *LIVE)
BRIDGE = ("default", "bridge")


def incomplete_images(root: Path) -> list[str]:
    """Images whose manifest names content that is not there."""
    database = sqlite3.connect(root / "metadata.db")
    images = database.execute("SELECT namespace, name, digest FROM images").fetchall()
    blobs = set(database.execute("SELECT namespace, digest FROM blobs").fetchall())
    database.close()
    wrong = []
    for namespace, name, target in images:
        path = root / "content/blobs/sha256" / target.removeprefix("sha256:")
        manifest = json.loads(path.read_bytes())
        parts = [manifest["config"], *manifest["layers"]] if "config" in manifest else []
        wrong += [
            f"{name} lacks {part['digest']}" for part in parts if (namespace, part["digest"]) not in blobs
        ]
    return wrong


def _differ(what: str, wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    wanted, found = set(wanted), set(found)
    return [f"no {what} of {one}" for one in wanted - found] + [
        f"{what} of nobody: {one}" for one in found - wanted
    ]


def _column(database: sqlite3.Connection, query: str) -> set[str]:
    return {row[0] for row in database.execute(query, (NAMESPACE,))}


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def _ids(folder: Path) -> set[str]:
    return {name for name in _names(folder) if len(name) == 64}


def _ids_in(text: str) -> set[str]:
    return {id[:_SHORT] for id in _ID.findall(text)}


def _short(ids: Iterable[str]) -> set[str]:
    return {id[:_SHORT] for id in ids}
