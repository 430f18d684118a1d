"""One unbroken trace from the CLI to the kernel."""

from __future__ import annotations

import json
import re

import pytest

from chain.conftest import Chain

pytestmark = [pytest.mark.root, pytest.mark.peers]

PARTS = ("cutaway", "cutawayd", "cutaway-containerd", "containerd-shim-cutaway-v1", "cutaway-runc")


def spans_of(chain: Chain, container: str) -> list[dict[str, object]]:
    document = json.loads(chain.cutaway("trace", container, "--json").stdout)
    found: list[dict[str, object]] = document["Spans"]
    return found


def test_every_part_is_in_one_tree(chain: Chain) -> None:
    chain.cutaway("run", "--name", "traced", chain.busybox, "sh", "-c", "exit 4", check=False)
    spans = spans_of(chain, "traced")
    assert {span["service"] for span in spans} == set(PARTS)
    assert len({span["traceId"] for span in spans}) == 1
    known = {span["spanId"] for span in spans}
    orphans = [span["name"] for span in spans if span["parentId"] and span["parentId"] not in known]
    assert orphans == []
    roots = [span for span in spans if not span["parentId"]]
    assert [root["service"] for root in roots] == ["cutaway"]


def test_the_waterfall_shows_real_values(chain: Chain) -> None:
    shown = chain.cutaway("run", "--trace", "--rm", chain.busybox, "true")
    text = shown.stderr
    for part in PARTS:
        assert part in text
    for value in (
        r"POST /v1\.\d+/containers/create",
        r"sha256:[0-9a-f]{12}",
        r"io\.containerd\.runtime\.v2\.task/moby/[0-9a-f]{12}",
        r"\b40265\d{5}\b",  # a namespace's inode number
        r"/sys/fs/cgroup/",
        r"pid[= ]\d+",
        r"exit[_ ]?(code|status)?[= ]0",
        r"\d+\.\d+ ?ms",
    ):
        assert re.search(value, text), f"{value} is not in the waterfall:\n{text}"


def test_a_real_client_is_traced_from_the_engine_down(chain: Chain) -> None:
    chain.engine.docker("run", "--name", "from-docker", chain.busybox, "true")
    services = {span["service"] for span in spans_of(chain, "from-docker")}
    assert services == set(PARTS) - {"cutaway"}
