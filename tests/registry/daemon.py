"""cutaway-registry as a daemon of a test's stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support.images import Image, push
from support.netns import Command, NetNs
from support.peers import VENV_BIN
from support.stack import Daemon, dials


class OurRegistry(Daemon):
    """cutaway-registry over plain HTTP on the loopback of its network namespace."""

    def __init__(
        self,
        base: Path,
        netns: NetNs,
        args: Sequence[str] = (),
        *,
        port: int | None = None,
        name: str = "ours",
    ) -> None:
        super().__init__(base / name, netns)
        self.args = list(args)
        self.port = port or netns.free_port()
        self.root = self.folder / "storage"

    @property
    def host(self) -> str:
        """The registry's part of an image reference."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> Command:
        return [VENV_BIN / "cutaway-registry", "--listen", self.host, "--root", self.root, *self.args]

    def is_ready(self) -> bool:
        return self.netns.call(dials, ("127.0.0.1", self.port))

    def push(self, image: Image, name: str, tag: str = "latest", *, docker: bool = False) -> str:
        """Push an image and return its manifest's digest."""
        return self.netns.call(push, image, self.host, name, tag, docker=docker)
