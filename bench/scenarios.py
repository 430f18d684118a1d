"""What is compared, and the two stacks it is compared on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import alternate
from bench.report import Row
from cutaway.trace import otlp
from support.hello import copy_hello
from support.images import push_busybox
from support.netns import Command, NetNs
from support.peers import VENV_BIN, peer
from support.stack import Engine, OurContainerd, OurEngine, RealContainerd, RealDockerd, RealRegistry

BUSYBOX = "127.0.0.1:5000/library/busybox"
HELLO = "127.0.0.1:5000/library/hello-world"


@dataclass(frozen=True)
class Bench:
    """Both stacks, running, each in a network of its own, with the images pulled."""

    ours: Engine
    real: Engine
    ours_below: OurContainerd
    real_below: RealContainerd
    registries: tuple[RealRegistry, RealRegistry]
    """One beside each stack, with the same in them."""
    base: Path


@contextlib.contextmanager
def stacks(base: Path) -> Iterator[Bench]:
    """Our whole chain and the real whole chain."""
    with contextlib.ExitStack() as stack:
        nets = [stack.enter_context(NetNs()) for _ in range(2)]
        registries = []
        for side, netns in zip(("o", "r"), nets, strict=True):
            registry = stack.enter_context(RealRegistry(base / side, netns, port=5000))
            netns.call(push_busybox, registry.host)
            copy_hello(base / side, registry, netns)
            registries.append(registry)
        # As `cutaway daemon start` has it: every part of ours records its spans.
        collector = {otlp.ENDPOINT: f"unix://{base / 'o' / 'eng' / 'exec' / 'otlp.sock'}"}
        ours_below = stack.enter_context(OurContainerd(base / "o", nets[0], env=collector))
        ours = stack.enter_context(OurEngine(base / "o", nets[0], ours_below.address))
        real_below = stack.enter_context(RealContainerd(base / "r", nets[1]))
        real = stack.enter_context(RealDockerd(base / "r", nets[1], containerd_socket=real_below.address))
        for engine in (ours, real):
            engine.docker("pull", BUSYBOX)
            engine.docker("pull", HELLO)
        yield Bench(ours, real, ours_below, real_below, (registries[0], registries[1]), base)


def client(engine: Engine, program: Path, *arguments: str) -> Callable[[], None]:
    """A CLI command in the engine's network namespace, its output thrown away.

    nsenter is a program of a millisecond and stands before both sides' commands alike.
    """
    command = ["nsenter", f"--net={engine.netns.path}", str(program), *arguments]
    return lambda: quiet(command, engine.env)


def quiet(command: Command, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench: {command}: exit code {done.returncode}: {done.stderr.decode()}")


def docker_run(bench: Bench, rounds: int) -> list[Row]:
    docker = peer("docker")
    ours = client(bench.ours, docker, "run", "--rm", HELLO)
    own_cli = client(bench.ours, VENV_BIN / "cutaway", "run", "--rm", HELLO)
    real = client(bench.real, docker, "run", "--rm", HELLO)
    times = alternate({"ours": ours, "own cli": own_cli, "real": real}, rounds)
    return [
        Row("`docker run --rm hello-world`: our engine / dockerd", times["ours"], times["real"], 0.35),
        Row("`cutaway run --rm hello-world` / docker on dockerd", times["own cli"], times["real"]),
    ]


def docker_exec(bench: Bench, rounds: int) -> list[Row]:
    docker = peer("docker")
    for engine in (bench.ours, bench.real):
        engine.docker("run", "-d", "--name", "sleeper", BUSYBOX, "sleep", "3600")
    ours = client(bench.ours, docker, "exec", "sleeper", "true")
    real = client(bench.real, docker, "exec", "sleeper", "true")
    times = alternate({"ours": ours, "real": real}, rounds)
    for engine in (bench.ours, bench.real):
        engine.docker("rm", "-f", "sleeper")
    return [Row("`docker exec CONTAINER true`: our engine / dockerd", times["ours"], times["real"])]


SCENARIOS: dict[str, Callable[[Bench, int], list[Row]]] = {
    "run": docker_run,
    "exec": docker_exec,
}
