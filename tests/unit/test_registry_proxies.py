"""Which proxy a request to a registry goes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from cutaway.errors import InvalidArgument
from cutaway.registry.client.proxies import Proxies, without_password

HTTP, HTTPS = "http://p.example:3128", "http://s.example:3128"


@pytest.mark.parametrize(
    ("no_proxy", "url", "through"),
    [
        ("", "https://r.example/v2/", HTTPS),
        ("", "http://r.example/v2/", HTTP),
        ("", "http://127.3.2.1:5000/", ""),
        ("", "http://localhost/", ""),
        ("", "http://[::1]:5000/", ""),
        ("*", "https://r.example/", ""),
        ("r.example", "https://r.example/", ""),
        ("r.example", "https://a.r.example/", ""),
        ("r.example", "https://bar.example/", HTTPS),
        ("r.example", "https://xr.example/", HTTPS),
        (".r.example", "https://r.example/", HTTPS),
        (".r.example", "https://a.r.example/", ""),
        ("*.r.example", "https://a.r.example/", ""),
        ("R.Example", "https://r.EXAMPLE/", ""),
        ("a, r.example ,b", "https://r.example/", ""),
        ("r.example:443", "https://r.example/", ""),
        ("r.example:444", "https://r.example/", HTTPS),
        ("10.0.0.0/8", "https://10.1.2.3/", ""),
        ("10.0.0.0/8", "https://11.1.2.3/", HTTPS),
        ("10.0.0.0/8", "https://r.example/", HTTPS),
        ("10.1.2.3", "https://10.1.2.3:5000/", ""),
        ("fd00::1", "https://[fd00::1]:5000/", ""),
        ("[fd00::1]:5000", "https://[fd00::1]:5000/", ""),
        ("10.0.0.0/99,,/", "https://10.1.2.3/", HTTPS),
    ],
)
def test_proxies_as_go_chooses_them(no_proxy: str, url: str, through: str) -> None:
    chosen = Proxies(HTTP, HTTPS, no_proxy).of(URL(url))
    assert (chosen or "").rstrip("/") == through


@given(
    st.text(max_size=30), st.sampled_from(["https://r.example/", "http://10.0.0.1:5/", "http://[fd00::1]/"])
)
def test_any_no_proxy_is_taken(no_proxy: str, url: str) -> None:
    Proxies(HTTP, HTTPS, no_proxy).of(URL(url))


def test_the_environment_in_either_case() -> None:
    environment = {"http_proxy": "a", "HTTPS_PROXY": "b", "https_proxy": "c", "NO_PROXY": "d"}
    assert Proxies.of_environment(environment) == Proxies("a", "b", "d")


def test_a_proxy_needs_no_scheme_but_one_that_is_known() -> None:
    assert str(Proxies("p:1").of(URL("http://r.example/"))).rstrip("/") == "http://p:1"
    for wrong in ("socks5://p:1", "http://", "http://p:x"):
        with pytest.raises(InvalidArgument, match="invalid proxy URL"):
            Proxies(https=wrong).check()


def test_a_proxys_password_is_not_shown() -> None:
    assert without_password("http://ann:secret@p:1") == "http://xxxxx:xxxxx@p:1"
    assert without_password("http://p:1") == "http://p:1"
