"""What several clients of an engine do at once, and what each of them has been promised by an answer."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from urllib.parse import quote

from containerd.client import Client
from crash.api import Api, Broken, Failed, Refused
from cutaway.pb import leases_pb2
from engine.engine_stack import NAMESPACE, Stack
from support.images import busybox_image, tar, with_layers
from support.process import wait_until
from support.stack import RealRegistry

PULLED = 4
"""So many images are in the registry."""
BASE = "busybox:latest"
NOT_DANGLING, ALL = quote('{"dangling":["false"]}'), quote('{"all":["true"]}')


@dataclass
class Brief:
    """A container that says something and ends with a code of its own."""

    name: str
    code: int
    vanishes: bool = False
    started: bool = False
    """The engine has answered that it runs."""
    in_doubt: bool = False
    """Its removal was asked for, or what it runs under was killed."""
    gone: bool = False
    """The engine has answered that it is removed."""
    answers: list[int] = field(default_factory=list)
    """What waiting for it has given."""


class Workload:
    """Clients of one engine. What they are refused is kept: while nothing dies, nothing may be."""

    def __init__(self, on: Stack, registry: RealRegistry, api: Api) -> None:
        self.on = on
        self.api = api
        self.registry = registry
        self.briefs: dict[str, Brief] = {}
        self.images: set[str] = set()
        """Names that are certainly there."""
        self.refusals: list[str] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._names: dict[str, threading.Lock] = {}
        self._prunes = 0
        self._waiters: list[threading.Thread] = []
        for number in range(PULLED):
            # Each one has a layer of its own, and shares one with its neighbour.
            parts = [tar({f"part-{part}": b"x" * 200_000}) for part in (number // 2, 10 + number)]
            registry.push(with_layers(busybox_image(), *parts), f"img-{number}")

    OPERATIONS = (
        *("run",) * 3, *("parallel", "execute", "pull", "remove") * 2, "commit", "keep_and_load", "push",
        "bring", "drop_image", "prune_images", "prune_containers", "prune_volumes", "collect", "rename",
        "look", "volume", "pause", "stop",
    )  # fmt: skip

    def work(self, random: Random, count: int) -> None:
        """One client's operations, one after another."""
        for _ in range(count):
            name = random.choice(self.OPERATIONS)
            self.tried(name, lambda name=name: getattr(self, name)(random))  # type: ignore[misc]

    def tried(self, what: str, function: Callable[[], object]) -> bool:
        """Whether it was done; another's removal of the same thing is no fault of the engine's."""
        try:
            function()
        except Broken as error:
            self.refusals.append(f"{what}: {error}")
            self._wait_for_daemons()
        except Refused as error:
            if error.status not in (404, 409, 304):
                self.refusals.append(f"{what}: {error}")
            if error.status == 503:
                self._wait_for_daemons()
        else:
            return True
        return False

    def _wait_for_daemons(self) -> None:
        wait_until(lambda: self.on.containerd.is_ready() and self.on.engine.is_ready(), "both answer", 60)

    def number(self) -> int:
        return next(self._numbers)

    # Containers that end.

    def run(self, random: Random) -> Brief:
        brief = self.make(random)
        self.start(brief)
        if random.random() < 0.3 and not brief.vanishes:
            self.wait(brief)
        return brief

    def make(self, random: Random, script: str = "") -> Brief:
        number = self.number()
        brief = Brief(f"brief-{number}", 1 + number % 100, vanishes=not script and random.random() < 0.2)
        pause = f"sleep {random.choice(('0', '0.02', '0.2'))}"
        host: dict[str, object] = {
            "NetworkMode": random.choice(("bridge", "bridge", "none", "host")),
            "AutoRemove": brief.vanishes,
        }
        if random.random() < 0.3:
            host["Binds"] = [random.choice((f"kept-{number % 5}:/kept", "/unnamed"))]
        if host["NetworkMode"] == "bridge" and random.random() < 0.4:
            host["PortBindings"] = {"80/tcp": [{"HostPort": ""}]}
        command = script or f"echo begin; {pause}; echo end; exit {brief.code}"
        image = random.choice([BASE, *(name for name in self.known() if not name.startswith("brought"))])
        body = {"Image": image, "Cmd": ["sh", "-c", command], "HostConfig": host}
        self.briefs[brief.name] = brief
        self.api.post(f"/containers/create?name={brief.name}", body)
        return brief

    def start(self, brief: Brief) -> None:
        self.api.post(f"/containers/{brief.name}/start")
        brief.started = True
        if not brief.vanishes:
            waiter = threading.Thread(target=self.wait, args=(brief,), daemon=True)
            self._waiters.append(waiter)
            waiter.start()

    def wait(self, brief: Brief) -> None:
        """Wait for the end, and ask again when that breaks off."""
        for _ in range(600):
            try:
                brief.answers.append(self.api.post(f"/containers/{brief.name}/wait")["StatusCode"])
            except Broken:
                threading.Event().wait(0.1)
                continue
            except Failed:
                pass  # removed
            return

    def still_waiting(self) -> bool:
        self._waiters = [one for one in self._waiters if one.is_alive()]
        return bool(self._waiters)

    def parallel(self, random: Random) -> None:
        """Four clients make and start containers at once."""
        seeds = [random.random() for _ in range(4)]
        threads = [
            threading.Thread(target=self.tried, args=("parallel", lambda seed=seed: self.run(Random(seed))))
            for seed in seeds
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def pick(self, random: Random) -> Brief | None:
        with self._lock:
            there = [brief for brief in self.briefs.values() if not brief.gone]
        return random.choice(there) if there else None

    def remove(self, random: Random) -> None:
        if brief := self.pick(random):
            brief.in_doubt = True
            self.api.delete(f"/containers/{brief.name}?force=1&v=1")
            brief.gone = True

    def rename(self, random: Random) -> None:
        if brief := self.pick(random):
            brief.in_doubt = True  # under which name it will be
            self.api.post(f"/containers/{brief.name}/rename?name=renamed-{self.number()}")

    def prune_containers(self, random: Random) -> None:
        for brief in list(self.briefs.values()):
            brief.in_doubt = True
        self.api.post("/containers/prune")

    # Containers that last.

    def execute(self, random: Random) -> None:
        """Another process in a container ends with a code of its own."""
        code = 1 + random.randrange(100)
        body = {"Cmd": ["sh", "-c", f"sleep 0.0{random.randrange(10)}; exit {code}"]}
        made = self.api.post("/containers/keeper/exec", body)["Id"]
        self.api.post(f"/exec/{made}/start", {"Detach": True})

        def ended() -> bool:
            found = self.api.get(f"/exec/{made}/json")
            if not found["Running"] and found["ExitCode"] != code:
                self.refusals.append(f"exec ended with {found['ExitCode']}, not {code}")
            return not found["Running"]

        wait_until(ended, "the exec has ended", 30)

    def pause(self, random: Random) -> None:
        self.api.post("/containers/toy/pause")
        try:
            self.api.post("/containers/toy/unpause")
        except Refused as error:
            if "not paused" not in str(error):  # another client has killed it meanwhile
                raise

    def stop(self, random: Random) -> None:
        way = random.choice(("restart?t=0", "kill", "stop?t=0"))
        self.api.post(f"/containers/toy/{way}")
        self.api.post("/containers/toy/start")

    def look(self, random: Random) -> None:
        for path in ("/containers/json?all=1&size=1", "/images/json", "/info", "/system/df", "/volumes"):
            self.api.get(path)
        self.api.send("GET", "/containers/keeper/logs?stdout=1")
        self.api.get("/containers/keeper/stats?stream=false&one-shot=true")

    # Images and volumes.

    def known(self) -> list[str]:
        """The names of images that are certainly there."""
        return sorted(self.images.copy())

    @contextmanager
    def _making(self, name: str) -> Iterator[None]:
        """An image is there when the block has ended well and none was pruned meanwhile."""
        with self._held(name):
            before = self._prunes
            yield
            if before == self._prunes:
                self.images.add(name)

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """No other client makes or removes the image of this name."""
        with self._lock:
            held = self._names.setdefault(name, threading.Lock())
        with held:
            yield

    def commit(self, random: Random) -> None:
        number = self.number()
        with self._making(f"made:{number}"):
            self.api.post(f"/commit?container=keeper&repo=made&tag={number}", {})

    def pull(self, random: Random) -> None:
        name = f"{self.registry.host}/img-{random.randrange(PULLED)}"
        with self._making(f"{name}:latest"):
            self.api.follow("POST", f"/images/create?fromImage={quote(name)}&tag=latest")

    def push(self, random: Random) -> None:
        host, tag = self.registry.host, self.number()
        with self._making(f"{host}/pushed:{tag}"):
            self.api.post(f"/images/{BASE}/tag?repo={quote(f'{host}/pushed')}&tag={tag}")
        self.api.follow("POST", f"/images/{host}/pushed/push?tag={tag}")

    def bring(self, random: Random) -> None:
        """`docker import`"""
        tag = self.number()
        data = tar({f"file-{tag}": b"y" * random.randrange(300_000)})
        with self._making(f"brought:{tag}"):
            self.api.follow("POST", f"/images/create?fromSrc=-&repo=brought&tag={tag}", data)

    def keep_and_load(self, random: Random) -> None:
        """`docker save`, `rmi` and `load`"""
        if known := self.known():
            name = random.choice(known)
            with self._making(name):
                archive = self.api.send("GET", f"/images/get?names={quote(name)}")
                self._drop(name)
                self.api.follow("POST", "/images/load", archive)

    def drop_image(self, random: Random) -> None:
        if known := self.known():
            name = random.choice(known)
            with self._held(name):
                self._drop(name)

    def _drop(self, name: str) -> None:
        self.images.discard(name)
        self.api.delete(f"/images/{name}?force=1")

    def prune_images(self, random: Random) -> None:
        self._prunes += 1
        self.images.clear()
        try:
            self.api.post(f"/images/prune?filters={NOT_DANGLING}")
        finally:
            self._prunes += 1
            self.images.clear()  # what came meanwhile may have gone or not

    def prune_volumes(self, random: Random) -> None:
        self.api.post(f"/volumes/prune?filters={ALL}")

    def volume(self, random: Random) -> None:
        name = f"volume-{random.randrange(3)}"
        self.api.post("/volumes/create", {"Name": name})
        self.api.delete(f"/volumes/{name}?force=1")

    def collect(self, random: Random) -> None:
        """Have garbage collected, as a client of the service does."""
        import grpc

        with Client(self.on.containerd.address, NAMESPACE) as client:
            try:
                client.lease(name := f"collect-{self.number()}")
                client.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=name, sync=True))
            except grpc.RpcError as error:
                raise Broken(f"collect: {error}") from None
