"""Daemons for tests, real ones and ours, each a context manager with a folder and a network of its own.

    with temporary_base() as base, NetNs() as netns:
        with RealContainerd(base, netns) as containerd:
            with RealDockerd(base, netns, containerd_socket=containerd.address) as engine:
                engine.docker("run", "--rm", "busybox", "true")

`path_prefix` folders come first on a daemon's PATH: put a part of ours there under the name of the
one it stands in for (see substitute) and the daemon uses ours.

Leaving a daemon's block ends it, then what it has left running below its folder. `stop` ends the
daemon alone, in good order, and `crash` the hard way; `start` brings it back over the same state.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from support.images import Image, busybox_image, push
from support.leftovers import sweep
from support.netns import Command, NetNs
from support.peers import VENV_BIN, peer, peer_path_env
from support.process import Process

CONTAINERD_CONFIG = """\
version = 2
root = "{daemon.root}"
state = "{daemon.state}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{daemon.address}"

[plugins."io.containerd.internal.v1.opt"]
path = "{daemon.folder}/opt"

# By itself it collects after a hundred changes, whosever they were; a test collects when it wants to.
[plugins."io.containerd.gc.v1.scheduler"]
mutation_threshold = 1000000
"""

REGISTRY_CONFIG = """\
version: 0.1
log:
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {daemon.folder}/storage
  delete:
    enabled: true
http:
  addr: {daemon.host}
  secret: not-a-secret
"""


class Daemon(ABC):
    """What all daemons have in common: a folder, an environment, start and end."""

    def __init__(
        self,
        folder: Path,
        netns: NetNs,
        *,
        path_prefix: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.netns = netns
        self.env = {**peer_path_env(*path_prefix), "HOME": os.fspath(folder), **(env or {})}
        self.log = folder / "log"
        self._process: Process | None = None

    @abstractmethod
    def command(self) -> Command:
        """The program and its arguments."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the daemon answers."""

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{type(self).__name__} has not been started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def prepare(self) -> None:  # noqa: B027 - most daemons read nothing
        """Write what the daemon reads before it starts."""

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        self._process = Process(self.command(), log=self.log, netns=self.netns, env=self.env, cwd=self.folder)
        self._process.wait_ready(self.is_ready, f"{type(self).__name__} answers")

    def stop(self) -> int:
        """End the daemon alone, in good order; return its exit code."""
        return self.process.stop()

    def crash(self) -> None:
        """End the daemon alone, by SIGKILL."""
        self.process.kill()

    def close(self) -> None:
        """End the daemon and everything it has left below its folder."""
        try:
            if self._process is not None:
                self.stop()
        finally:
            sweep(self.folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Containerd(Daemon):
    """A daemon at seam 3: the containerd API on a Unix socket."""

    def __init__(
        self,
        base: Path,
        netns: NetNs,
        path_prefix: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        *,
        name: str = "ctd",
    ) -> None:
        super().__init__(base / name, netns, path_prefix=path_prefix, env=env)
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.address = self.folder / "sock"
        self.namespace = base.name

    def is_ready(self) -> bool:
        return dials(self.address)

    def ctr(
        self, *arguments: str, namespace: str = "", check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the real ctr on this daemon, in its network namespace.

        Its containerd namespace is named after the stack, and so is the cgroup of each container, which
        is /NAMESPACE/ID: stacks that run at the same time do not meet there.
        """
        namespace = namespace or self.namespace
        command: Command = [peer("ctr"), "--address", self.address, "--namespace", namespace, *arguments]
        return self.netns.run(command, env=self.env, check=check, input=input)


class RealContainerd(Containerd):
    """containerd itself."""

    def prepare(self) -> None:
        (self.folder / "config.toml").write_text(CONTAINERD_CONFIG.format(daemon=self))

    def command(self) -> Command:
        return [peer("containerd"), "--config", self.folder / "config.toml"]


class OurContainerd(Containerd):
    """cutaway-containerd."""

    def command(self) -> Command:
        program = VENV_BIN / "cutaway-containerd"
        return [program, "--root", self.root, "--state", self.state, "--address", self.address]


class Engine(Daemon):
    """A daemon at seam 1: the Docker Engine API on a Unix socket."""

    def __init__(
        self,
        base: Path,
        netns: NetNs,
        *,
        containerd_socket: Path | None = None,
        extra_args: Sequence[str] = (),
        path_prefix: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        name: str = "eng",
    ) -> None:
        super().__init__(base / name, netns, path_prefix=path_prefix, env=env)
        self.cgroup_parent = f"/{base.name}"
        self.containerd_socket = containerd_socket
        self.extra_args = list(extra_args)
        self.root = self.folder / "root"
        self.exec_root = self.folder / "exec"
        self.socket = self.folder / "sock"
        self.pidfile = self.folder / "pid"
        self.env["DOCKER_HOST"] = self.host
        self.env["DOCKER_CONFIG"] = os.fspath(self.folder / "client")

    @property
    def host(self) -> str:
        """What DOCKER_HOST is to be."""
        return f"unix://{self.socket}"

    def is_ready(self) -> bool:
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Ask the Engine API; `body` is sent as JSON. Returns the status and the answer's body."""
        connection = UnixConnection(self.socket)
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def docker(
        self,
        *arguments: str,
        check: bool = True,
        input: str | None = None,
        program: Path | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a docker CLI, the real one unless told otherwise, on this engine, in its network namespace."""
        command: Command = [program or peer("docker"), *arguments]
        return self.netns.run(command, env=self.env, check=check, input=input, timeout=timeout)

    def load(self, image: Image, *tags: str) -> None:
        """Give the engine an image by `docker load`."""
        archive = self.folder / "load.tar"
        archive.write_bytes(image.docker_archive(*tags))
        self.docker("load", "--input", os.fspath(archive))
        archive.unlink()

    def load_busybox(self, tag: str = "busybox:latest") -> None:
        self.load(busybox_image(), tag)

    def kill_containers(self) -> None:
        """Kill every running container: an engine that ends in good order gives each ten seconds."""
        status, body = self.request("GET", "/containers/json")
        for container in json.loads(body) if status == 200 else []:
            self.request("POST", f"/containers/{container['Id']}/kill")

    def crash(self) -> None:
        """End the engine alone, by SIGKILL, and clear its pid file away as a service manager does."""
        super().crash()
        self.pidfile.unlink(missing_ok=True)

    def close(self) -> None:
        try:
            if self._process is not None and self._process.returncode is None:
                self.kill_containers()
        except OSError:
            self.process.stop(signal.SIGKILL)  # it does not answer, so it would not stop either
        finally:
            super().close()


class RealDockerd(Engine):
    """dockerd itself; with a containerd of its own below its folder unless it is given one."""

    def prepare(self) -> None:
        # The key has no flag any more; left alone it is made in /etc/docker.
        settings = {"deprecated-key-path": os.fspath(self.folder / "key.json")}
        (self.folder / "daemon.json").write_text(json.dumps(settings))

    def command(self) -> Command:
        command: Command = [
            peer("dockerd"),
            "--config-file", self.folder / "daemon.json",
            "--data-root", self.root,
            "--exec-root", self.exec_root,
            "--pidfile", self.pidfile,
            "--host", self.host,
            "--storage-driver", "overlay2",
            "--cgroup-parent", self.cgroup_parent,
        ]  # fmt: skip
        if self.containerd_socket is not None:
            command = [*command, "--containerd", self.containerd_socket]
        return [*command, *self.extra_args]


class OurEngine(Engine):
    """cutawayd, which is always given a containerd."""

    def __init__(
        self,
        base: Path,
        netns: NetNs,
        containerd_socket: Path,
        args: Sequence[str] = (),
        *,
        path_prefix: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        name: str = "eng",
    ) -> None:
        super().__init__(
            base,
            netns,
            containerd_socket=containerd_socket,
            extra_args=args,
            path_prefix=path_prefix,
            env=env,
            name=name,
        )

    def command(self) -> Command:
        assert self.containerd_socket is not None
        return [
            VENV_BIN / "cutawayd",
            "--data-root", self.root,
            "--exec-root", self.exec_root,
            "--host", self.host,
            "--pidfile", self.pidfile,
            "--containerd", self.containerd_socket,
            *self.extra_args,
        ]  # fmt: skip


class RealRegistry(Daemon):
    """docker-registry over plain HTTP on the loopback of its network namespace."""

    address = "127.0.0.1"

    def __init__(
        self, base: Path, netns: NetNs, *, port: int | None = None, name: str = "reg", extra_config: str = ""
    ) -> None:
        super().__init__(base / name, netns)
        self.port = port or netns.free_port()
        self.extra_config = extra_config

    @property
    def host(self) -> str:
        """The registry's part of an image reference."""
        return f"{self.address}:{self.port}"

    def prepare(self) -> None:
        (self.folder / "config.yml").write_text(REGISTRY_CONFIG.format(daemon=self) + self.extra_config)

    def command(self) -> Command:
        return [peer("docker-registry"), "serve", self.folder / "config.yml"]

    def is_ready(self) -> bool:
        return self.netns.call(dials, (self.address, self.port))

    def push(self, image: Image, name: str, tag: str = "latest", *, docker: bool = False) -> str:
        """Push an image and return its manifest's digest."""
        return self.netns.call(push, image, self.host, name, tag, docker=docker)

    def push_busybox(self, name: str = "library/busybox", tag: str = "latest") -> str:
        return self.push(busybox_image(), name, tag)


class GuardedRegistry(RealRegistry):
    """docker-registry that asks for a name and a password."""

    user, password = "ann", "open sesame"

    def prepare(self) -> None:
        file = self.folder / "htpasswd"
        # bcrypt, the only kind that docker-registry reads.
        file.write_text(f"{self.user}:$2b$04$AAAAAAAAAAAAAAAAAAAAA.0U6Od5Qjelp9MeC6FBzMtpVIcSh3VRm\n")
        self.extra_config = f"auth:\n  htpasswd:\n    realm: test\n    path: {file}\n"
        super().prepare()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def dials(address: Path | tuple[str, int]) -> bool:
    """Whether somebody listens."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as client:
        try:
            client.connect(os.fspath(address) if isinstance(address, Path) else address)
        except OSError:
            return False
    return True


def substitute(folder: Path, **programs: Path) -> Path:
    """Make a folder for `path_prefix` in which programs of ours bear their peers' names; _ stands for -.

    substitute(base / "bin", runc=VENV_BIN / "cutaway-runc")
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        (folder / name.replace("_", "-")).symlink_to(program)
    return folder
