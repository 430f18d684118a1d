"""The daemon's flags about registries, as dockerd takes them, and their refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutaway.engine.daemon import image_settings
from cutaway.engine.settings import parse
from cutaway.errors import InvalidArgument
from cutaway.registry.client.proxies import Proxies


def test_flags_reach_the_registry_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://env.example:1")
    monkeypatch.setenv("NO_PROXY", "env.example")
    chosen = image_settings(
        parse(
            [
                *("--insecure-registry", "http://reg.example:5000", "--insecure-registry", "10.0.0.0/8"),
                *("--registry-mirror", "https://mirror.example", "--certs-dir", "/somewhere"),
                *("--no-proxy", "flag.example", "--max-concurrent-downloads", "7"),
                *("--max-concurrent-uploads", "8", "--max-download-attempts", "9"),
            ]
        )
    )
    client = chosen.registry
    assert client.insecure_registries == {"reg.example:5000", "10.0.0.0/8"}
    assert client.registry_mirrors == ("https://mirror.example/",)
    assert client.certs_dir == Path("/somewhere")
    assert client.proxies == Proxies("", "http://env.example:1", "flag.example")
    assert (chosen.max_downloads, chosen.max_uploads, client.max_resumes) == (7, 8, 9)


def test_without_flags_it_is_as_with_dockerd() -> None:
    chosen = image_settings(parse([]))
    assert chosen.registry.certs_dir == Path("/etc/docker/certs.d")
    assert (chosen.max_downloads, chosen.max_uploads, chosen.registry.max_resumes) == (3, 5, 5)
    assert not chosen.registry.registry_mirrors and not chosen.registry.insecure_registries


def test_no_limit_is_zero() -> None:
    assert image_settings(parse(["--max-concurrent-downloads", "0"])).max_downloads == 1000


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--registry-mirror", "mirror.example", 'invalid mirror: unsupported scheme "" in "mirror.example"'),
        ("--insecure-registry", "a b", "insecure registry a b is not valid"),
        ("--insecure-registry", "10.0.0.0/99", "insecure registry 10.0.0.0/99 is not valid"),
        ("--https-proxy", "socks5://p.example", "invalid proxy URL"),
        ("--max-concurrent-downloads", "-1", "invalid max concurrent downloads: -1"),
        ("--max-concurrent-uploads", "-1", "invalid max concurrent uploads: -1"),
        ("--max-download-attempts", "0", "invalid max download attempts: 0"),
    ],
)
def test_what_cannot_be(flag: str, value: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{said}"):
        parse([flag, value])
