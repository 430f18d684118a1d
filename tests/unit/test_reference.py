"""Image references: normalization, familiar forms, and refusals in Docker's words."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import InvalidArgument
from cutaway.registry import reference
from cutaway.registry.reference import Reference, parse

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:2", "localhost:5000/x:2", "localhost:5000/x:2"),
        ("ghcr.io/o/x", "ghcr.io/o/x:latest", "ghcr.io/o/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
        ("a--b__c/d.e_f", "docker.io/a--b__c/d.e_f:latest", "a--b__c/d.e_f:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}", f"x@{DIGEST}"),
        (f"x:1@{DIGEST}", f"docker.io/library/x:1@{DIGEST}", f"x:1@{DIGEST}"),
        (HEX[:12], f"docker.io/library/{HEX[:12]}:latest", f"{HEX[:12]}:latest"),
    ],
)
def test_normalization(text: str, canonical: str, familiar: str) -> None:
    named = parse(text).with_default_tag()
    assert (str(named), named.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "invalid reference format"),
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("x/Foo:1", "invalid reference format: repository name (x/Foo) must be lowercase"),
        (f"x@SHA256:{HEX}", "invalid reference format: repository name (library/x@SHA256) must be lowercase"),
        ("UPPER.example/x/Y", "invalid reference format: repository name (x/Y) must be lowercase"),
        ("foo:", "invalid reference format"),
        ("foo:bar:baz", "invalid reference format"),
        ("foo:-x", "invalid reference format"),
        (f"x:{'a' * 129}", "invalid reference format"),
        ("/x", "invalid reference format"),
        ("x/", "invalid reference format"),
        ("x//y", "invalid reference format"),
        ("-x", "invalid reference format"),
        ("foo___bar", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("x\n", "invalid reference format"),
        ("x\x00y", "invalid reference format"),
        ("http://x.example/y", "invalid reference format"),
        ("../../etc/passwd", "invalid reference format"),
        ("a.example:port/x", "invalid reference format"),
        ("[::1/x", "invalid reference format"),
        ("x@sha256:aa", "invalid reference format"),
        (f"x@md5:{HEX[:32]}", "unsupported digest algorithm"),
        (f"x@sha256:{HEX[:40]}", "invalid checksum digest length"),
        (f"x@sha256:{HEX.upper()}", "invalid checksum digest format"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings"),
        ("g" * 260, "repository name must not be more than 255 characters"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert str(caught.value) == said


components = st.from_regex(r"\A[a-z0-9]{1,5}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}\Z")
labels = st.from_regex(r"\A[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?\Z")
hosts = st.builds(lambda parts, port: ".".join(parts) + port, st.lists(labels, min_size=2, max_size=3),
                  st.sampled_from(["", ":5000"]))  # fmt: skip
tags = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")


@given(hosts | st.just("docker.io"), st.lists(components, min_size=1, max_size=4), tags | st.just(""))
def test_what_is_built_is_read_back(host: str, parts: list[str], tag: str) -> None:
    text = f"{host}/{'/'.join(parts)}" + (f":{tag}" if tag else "")
    if len(text) > 200:
        return
    named = parse(text)
    assert parse(str(named)) == named
    assert parse(named.familiar) == named
    assert named.tag == tag


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        named = parse(text)
    except InvalidArgument as error:
        assert str(error)
        return
    assert parse(str(named)) == named
    assert reference.is_path(named.path) and reference.is_domain(named.domain)
    assert not {"..", "", "."} & set(named.name.split("/"))


def test_tags_and_digests_are_checked_when_set() -> None:
    named = Reference("docker.io", "library/x", "1")
    assert str(named.with_digest(DIGEST)) == f"docker.io/library/x@{DIGEST}"
    with pytest.raises(InvalidArgument, match="invalid tag format"):
        named.with_tag("a/b")
    with pytest.raises(InvalidArgument, match="invalid checksum digest"):
        named.with_digest("sha256:zz")


@pytest.mark.parametrize(
    ("text", "fits"),
    [("abc", True), (HEX, True), (DIGEST, True), ("sha256:", False), ("xyz", False), (HEX + "0", False)],
)
def test_what_could_be_an_id(text: str, fits: bool) -> None:
    assert reference.is_id_prefix(text) is fits


def test_the_module_is_cheap_to_import() -> None:
    """The CLI loads it for every command: it must not bring in what takes milliseconds."""
    code = (
        "import sys; before = set(sys.modules); import cutaway.registry.reference; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('cutaway')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
