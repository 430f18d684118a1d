"""The whole chain, every part ours, in a network without any way out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.leftovers import temporary_base
from support.netns import NetNs
from support.peers import VENV_BIN, need
from support.stack import OurContainerd, OurEngine, RealRegistry


@dataclass
class Chain:
    """Our daemons, and our CLI on them."""

    containerd: OurContainerd
    engine: OurEngine
    registry: RealRegistry

    def cutaway(
        self, *arguments: str, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self.engine.docker(*arguments, program=VENV_BIN / "cutaway", check=check, input=input)

    @property
    def busybox(self) -> str:
        return f"{self.registry.host}/library/busybox"


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    need("root", "docker-registry", "busybox")
    with (
        temporary_base() as base,
        NetNs() as netns,
        RealRegistry(base, netns, port=5000) as registry,
    ):
        registry.push_busybox()
        # Shims and runtimes inherit the collector's address from the daemon below the engine.
        collector = f"unix://{base / 'eng' / 'exec' / 'otlp.sock'}"
        with OurContainerd(base, netns, env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector}) as containerd:
            with OurEngine(base, netns, containerd.address) as engine:
                yield Chain(containerd, engine, registry)
