"""One unbroken trace from the CLI to the kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

import pytest

from chain.conftest import Chain
from cutaway.trace.collect import TraceSpan, decode_request
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

PARTS = ("cutaway", "cutawayd", "cutaway-containerd", "containerd-shim-cutaway-v1", "cutaway-runc")


def spans_of(chain: Chain, container: str, parts: Collection[str]) -> list[TraceSpan]:
    """A container's trace, once the parts named have handed in theirs and nothing more comes."""
    found: list[list[TraceSpan]] = [[]]

    def complete() -> bool:
        text = chain.cutaway("trace", container, "--json").stdout
        found.append(decode_request(json.loads(text)))
        return {span.service for span in found[-1]} == set(parts) and len(found[-2]) == len(found[-1])

    wait_until(complete, f"the trace of {container} has spans of {', '.join(parts)}")
    return found[-1]


def test_every_part_is_in_one_tree(chain: Chain) -> None:
    chain.cutaway("run", "--name", "traced", chain.busybox, "sh", "-c", "exit 4", check=False)
    spans = spans_of(chain, "traced", PARTS)
    assert len({span.trace_id for span in spans}) == 1
    known = {span.span_id for span in spans}
    assert [span.name for span in spans if span.parent_id and span.parent_id not in known] == []
    assert [span.service for span in spans if not span.parent_id] == ["cutaway"]


def test_the_waterfall_shows_real_values(chain: Chain) -> None:
    shown = chain.cutaway("run", "--trace", "--rm", chain.busybox, "true")
    text = shown.stderr
    for part in PARTS:
        assert part in text
    for value in (
        r"POST /v1\.\d+/containers/create",
        r"sha256:[0-9a-f]{12}",
        r"io\.containerd\.runtime\.v2\.task/moby/[0-9a-f]{6}",
        r"\b40265\d{5}\b",  # a namespace's inode number
        r"/sys/fs/cgroup/",
        r"pid[= ]\d+",
        r"exit[_ ]?(code|status)?[= ]0",
        r"\d+\.\d+ ?ms",
    ):
        assert re.search(value, text), f"{value} is not in the waterfall:\n{text}"


def test_a_real_client_is_traced_from_the_engine_down(chain: Chain) -> None:
    chain.engine.docker("run", "--name", "from-docker", chain.busybox, "true")
    assert spans_of(chain, "from-docker", PARTS[1:])
