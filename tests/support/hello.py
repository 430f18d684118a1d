"""hello-world in a real registry: copied there from ours, as anybody would copy an image."""

from __future__ import annotations

import os
from pathlib import Path

from cutaway.registry.hello import image
from support.netns import NetNs
from support.peers import VENV_BIN, peer, peer_path_env
from support.process import Process
from support.stack import RealRegistry, dials


def greeting() -> str:
    """What hello-world prints on this machine."""
    platform = image.ARM64 if os.uname().machine == "aarch64" else image.AMD64
    return image.message(platform).decode()


def copy_hello(base: Path, registry: RealRegistry, netns: NetNs, name: str = "library/hello-world") -> None:
    """Start cutaway-registry for a moment and let skopeo copy its hello-world, index and all."""
    port = netns.free_port()
    listen = f"127.0.0.1:{port}"
    program = VENV_BIN / "cutaway-registry"
    server = Process(
        [program, "--listen", listen, "--root", base / "hello", "--with-hello"],
        log=base / "hello.log",
        netns=netns,
        env=peer_path_env(),
    )
    try:
        server.wait_ready(lambda: netns.call(dials, ("127.0.0.1", port)), "cutaway-registry listens")
        policy = base / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        netns.run(
            [
                peer("skopeo"), "--policy", policy, "copy", "--all",
                "--src-tls-verify=false", "--dest-tls-verify=false",
                f"docker://{listen}/library/hello-world", f"docker://{registry.host}/{name}",
            ],
            env=peer_path_env(),
        )  # fmt: skip
    finally:
        server.stop()
