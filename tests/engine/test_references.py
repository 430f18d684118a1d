"""References as our engine and dockerd read them: the same names, the same refusals, word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.engine_stack import Stack
from support.peers import need
from support.stack import Engine, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"
# What dockerd 20.10 reads otherwise than newer ones, whose way ours is, is not here: see _is_read_anew.
NAMES = [
    "app", "app:1", "library/app", "docker.io/app", "docker.io/library/app:x", "index.docker.io/a/b",
    "docker.io/library/a/b", "localhost/x", "localhost:5000/x:2", "local/x", "ghcr.io/o/x", "::1/x",
    "a.b/c", "a.b:c/d", "a:b/c", "-a.example/c", "a-.example/c", "a..example/c", "1.2.3.4:65536/x",
    "1.2.3.4:/x", "a.example:99999999/x", "a--b__c/d.e_f", "a.-b", "a._b", "a___b", "a__b", "a_-b",
    "a----b", "-a", "a-", "_a", ".a", "a.", "a..b", "A", "aB", "a/B", "library/A", "a//b", "/a", "a/",
    "/", "a/b/", "a b", " a", "a ", "a\tb", "a\n", "é", "a/é", "a:é", "a%20b", "a:b:c", "a:", "a:-1",
    "a:.1", "a:_1", "a:A.b-C_d", "a:b/c", f"a:{'t' * 128}", f"a:{'t' * 129}", "n" * 255, "n" * 247,
    "n" * 248, f"docker.io/{'n' * 245}", f"docker.io/a/{'n' * 243}", f"docker.io/a/{'n' * 244}",
    f"h.example/{'n' * 245}", f"h.example/{'n' * 246}", f"a@{DIGEST}", f"a:1@{DIGEST}", "a@", "@",
    f"@{DIGEST}", f"a@{HEX}", "a@sha256:abc", f"a@sha256:{HEX.upper()}", f"a@md5:{HEX[:32]}",
    f"a@sha256:{HEX[:40]}", f"a@sha512:{HEX * 2}", f"a@SHA256:{HEX}", f"a@x+y:{HEX}",
    f"a@sha256:{HEX}@{DIGEST}", f"sha256:{HEX}", f"docker.io/{HEX}", f"a/{HEX}", "http://a.example/b",
    "https://a", "../a", "a/../b", "./a", "~/a", "a.example", "a.example:1", "localhost",
    "localhost:1", "scratch", "a@b@c", "a:1:2@x", "docker.io", "docker.io/", "index.docker.io/x",
    f"A@{DIGEST}", f"a/B:1@{DIGEST}", "A:B", "a:1@B:C",
]  # fmt: skip

pieces = st.sampled_from(
    [*"abz09AZ._-:/@[]", "docker.io/", "library/", "h.example:5/", DIGEST, "__", "é", "ab"]
)
texts = st.lists(pieces, max_size=9).map("".join)
LOWERCASE = re.compile(r"repository name \(.*\) must be")


def _is_read_anew(text: str) -> bool:
    """IPv6 hosts and upper-case hosts are newer than 20.10; what looks like a host and is none, we refuse."""
    first, slash, _ = text.partition("/")
    return "[" in text or (bool(slash) and (first != first.lower() or "_" in first))


@pytest.fixture(scope="module")
def dockerd(shared_stack: Stack) -> Iterator[RealDockerd]:
    need("dockerd")
    with RealDockerd(shared_stack.engine.folder.parent, shared_stack.netns, name="real") as real:
        real.load_busybox()
        yield real


def tag(engine: Engine, repository: str, tag: str = "") -> object:
    """Tag busybox; the refusal, or the names that the image has got.

    The status of a refusal is not compared: dockerd 20.10 answers 500 where newer ones answer 400.
    """
    query = urlencode({"repo": repository, "tag": tag})
    status, answer = engine.request("POST", f"/images/busybox:latest/tag?{query}")
    if status != 201:
        assert status >= 400
        # Newer ones say which name.
        return LOWERCASE.sub("repository name must be", json.loads(answer)["message"])
    names = set(json.loads(engine.request("GET", "/images/busybox:latest/json")[1])["RepoTags"])
    for name in names - {"busybox:latest"}:
        # In full: sha256:... alone is an ID, and docker.io/x would be read as docker.io/library/x.
        whole = name if "/" in name else f"docker.io/library/{name}"
        whole = f"docker.io/{name}" if name.startswith("docker.io/") else whole
        assert engine.request("DELETE", f"/images/{whole}?noprune=1")[0] == 200, name
    return sorted(names)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_dockerd_reads_it(shared_stack: Stack, dockerd: RealDockerd, name: str) -> None:
    assert tag(shared_stack.engine, name) == tag(dockerd, name)


@pytest.mark.parametrize("text", ["1", "a/b", "-", "x" * 129, "A_.-", "é", "a b", DIGEST])
def test_a_tag_is_read_as_dockerd_reads_it(shared_stack: Stack, dockerd: RealDockerd, text: str) -> None:
    assert tag(shared_stack.engine, "app", text) == tag(dockerd, "app", text)


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_any_text_is_read_as_dockerd_reads_it(shared_stack: Stack, dockerd: RealDockerd, text: str) -> None:
    assume(not _is_read_anew(text))
    assert tag(shared_stack.engine, text) == tag(dockerd, text)
