"""`run hello-world` all the way down and back, as a newcomer sees it."""

from __future__ import annotations

import re

import pytest

from chain.conftest import Chain
from support.hello import greeting

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_hello_world_without_docker_hub(chain: Chain) -> None:
    first = chain.cutaway("run", "hello-world")
    assert first.stdout == greeting()
    lines = first.stderr.splitlines()
    assert lines[0] == "Unable to find image 'hello-world:latest' locally"
    assert "latest: Pulling from library/hello-world" in lines
    assert any(re.fullmatch(r"[0-9a-f]{12}: Pull complete", line) for line in lines)
    assert any(re.fullmatch(r"Digest: sha256:[0-9a-f]{64}", line) for line in lines)
    assert lines[-1] == "Status: Downloaded newer image for hello-world:latest"

    second = chain.cutaway("run", "hello-world")
    assert (second.stdout, second.stderr) == (greeting(), "")

    rows = chain.cutaway("ps", "-a").stdout.splitlines()
    assert rows[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert re.match(
        r'[0-9a-f]{12}   hello-world   "/hello"  .*Exited \(0\) .* ago .* [a-z]+_[a-z]+$', rows[1]
    )


def test_the_fallback_is_said_and_only_for_what_it_holds(chain: Chain) -> None:
    chain.cutaway("rmi", "-f", "hello-world", check=False)
    pulled = chain.cutaway("pull", "hello-world")
    assert "built-in registry" in pulled.stdout + pulled.stderr
    missing = chain.cutaway("pull", "alpine", check=False)
    assert missing.returncode == 1
    assert "registry-1.docker.io" in missing.stderr and "built-in" not in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1
