"""Every part against every other: 2 CLIs on 16 stacks, 32 combinations of our parts and the real ones.

Each combination pulls hello-world from a real registry and runs it, then runs a shell that writes to
both streams and fails: a user must not be able to tell the combinations apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hello import copy_hello, greeting
from support.leftovers import temporary_base
from support.netns import NetNs
from support.peers import VENV_BIN, need, peer
from support.stack import Engine, RealRegistry
from swap.parts import STACKS, Stack, running

# Combinations that cannot work, and why. The README's table is made from this.
IMPOSSIBLE: dict[tuple[bool, Stack], str] = {}

CLIS = {True: "cutaway", False: "docker"}


def by_stack() -> list[object]:
    return [pytest.param(s, id=str(s), marks=pytest.mark.xdist_group(str(s))) for s in STACKS]


@pytest.fixture(scope="module", params=by_stack())
def stack(request: pytest.FixtureRequest) -> Stack:
    found: Stack = request.param
    return found


@pytest.fixture(scope="module")
def engine(stack: Stack) -> Iterator[Engine]:
    need("docker", "dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-registry", "busybox")
    with temporary_base() as base, NetNs() as netns, RealRegistry(base, netns, port=5000) as registry:
        registry.push_busybox()
        copy_hello(base, registry, netns)
        with running(stack, base, netns) as daemon:
            yield daemon


@pytest.mark.root
@pytest.mark.peers
@pytest.mark.parametrize("our_cli", [True, False], ids=list(CLIS.values()))
def test_combination(our_cli: bool, stack: Stack, engine: Engine) -> None:
    if reason := IMPOSSIBLE.get((our_cli, stack)):
        pytest.xfail(reason)
    cli: Path = VENV_BIN / "cutaway" if our_cli else peer("docker")
    name = f"hello-{CLIS[our_cli]}"

    hello = engine.docker("run", "--name", name, "127.0.0.1:5000/library/hello-world", program=cli)
    assert hello.stdout == greeting()
    listed = engine.docker("ps", "-a", "--filter", f"name={name}", program=cli).stdout
    assert "127.0.0.1:5000/library/hello-world" in listed and "Exited (0)" in listed

    script = "echo out; echo err >&2; exit 3"
    shell = engine.docker(
        "run", "--rm", "127.0.0.1:5000/library/busybox", "sh", "-c", script, program=cli, check=False
    )
    assert (shell.stdout, shell.stderr.splitlines()[-1:], shell.returncode) == ("out\n", ["err"], 3)
    left = engine.docker("ps", "-aq", "--filter", "ancestor=127.0.0.1:5000/library/busybox", program=cli)
    assert left.stdout == ""
