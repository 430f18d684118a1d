"""The registry client's small parts: endpoints, challenges, tokens, and errors in Docker's words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.registry.client import auth, failures
from cutaway.registry.client.failures import Answer, failure
from cutaway.registry.client.settings import ANONYMOUS, ClientSettings, Credentials, endpoint_of
from cutaway.registry.reference import parse


@pytest.mark.parametrize(
    ("domain", "urls"),
    [
        ("docker.io", ["https://registry-1.docker.io"]),
        ("ghcr.io", ["https://ghcr.io"]),
        ("localhost:5000", ["https://localhost:5000", "http://localhost:5000"]),
        ("127.8.9.1", ["https://127.8.9.1", "http://127.8.9.1"]),
        ("[::1]:5000", ["https://[::1]:5000", "http://[::1]:5000"]),
        ("127.0.0.1.example", ["https://127.0.0.1.example"]),
        ("10.0.0.1:5000", ["https://10.0.0.1:5000"]),
        ("10.1.0.1:5000", ["https://10.1.0.1:5000", "http://10.1.0.1:5000"]),
        ("mine.example:5000", ["https://mine.example:5000", "http://mine.example:5000"]),
        ("mine.example", ["https://mine.example"]),
    ],
)
def test_plain_http_only_where_it_is_allowed(domain: str, urls: list[str]) -> None:
    settings = ClientSettings(insecure_registries=frozenset(("10.1.0.0/16", "mine.example:5000")))
    assert list(endpoint_of(domain, settings).urls) == urls


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull"',
            "bearer",
            {
                "realm": "https://auth.example/token",
                "service": "registry.example",
                "scope": "repository:a:pull",
            },
        ),
        ('bearer realm="a,b=\\"c\\"" , service=plain', "bearer", {"realm": 'a,b="c"', "service": "plain"}),
        ("Basic", "basic", {}),
        ('Basic realm="here', "basic", {"realm": "here"}),
        ('Bearer realm="a",realm="b"', "bearer", {"realm": "a"}),
    ],
)
def test_challenges(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert auth.parse_challenges([header]) == [auth.Challenge(scheme, parameters)]


@given(st.text(max_size=100))
def test_any_header_is_read_without_failing(header: str) -> None:
    auth.parse_challenges([header])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 7}',
        b'{"token": "a b"}',
        b'{"token": "a\\nb"}',
        b'{"token": "\\u00e9"}',
        b"[" * 5000,
    ],
)
def test_token_that_cannot_be_used(body: bytes) -> None:
    with pytest.raises(errors.Unauthenticated):
        auth.parse_token(body, "https://auth.example/token")


def test_token_query_by_what_the_user_has() -> None:
    challenge = auth.Challenge("bearer", {"realm": "r", "service": "s"})
    assert auth.token_query(challenge, "x", ANONYMOUS) == {"scope": "x", "service": "s"}
    assert auth.token_query(challenge, "x", Credentials("ann", "pw"))["account"] == "ann"
    form = auth.token_form(challenge, ("x", "y"), Credentials(identity_token="t"))
    assert (form["grant_type"], form["refresh_token"], form["scope"]) == ("refresh_token", "t", "x y")
    form = auth.token_form(challenge, (), Credentials("ann", "pw"), lasting=True)
    assert (form["grant_type"], form["password"], form["access_type"]) == ("password", "pw", "offline")


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("ann", "password", "identity", "registry")) + repr(auth.Token("token", 1.0))
    assert not any(word in shown.replace("_token", "").replace("Token(", "") for word in
                   ("'password'", "'identity'", "'registry'", "'token'"))  # fmt: skip


def answer(status: int, code: str = "", message: str = "", *, denied: bool = False) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message}]}) if code else "<html>"
    return Answer(status, body.encode(), "https://r.example/v2/x", denied)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (
            answer(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            errors.NotFound,
            "manifest for team/x:1 not found: manifest unknown: manifest unknown",
        ),
        (answer(404, "NAME_UNKNOWN", "no"), errors.NotFound, "repository team/x not found: name unknown: no"),
        (answer(404), errors.NotFound, "manifest for team/x:1 not found: not found: not found"),
        (
            answer(401, "UNAUTHORIZED", "authentication required", denied=True),
            errors.NotFound,
            "pull access denied for team/x, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
        ),
        (
            answer(403, "DENIED", "no"),
            errors.NotFound,
            "pull access denied for team/x, repository does not exist or may require 'docker login': "
            "denied: no",
        ),
        (
            answer(401, "UNAUTHORIZED", "authentication required"),
            errors.Unauthenticated,
            "unauthorized: authentication required",
        ),
        (answer(429, "ANY", "slow down"), errors.ResourceExhausted, "toomanyrequests: slow down"),
        (answer(500, "UNKNOWN", "ouch"), errors.Unavailable, "unknown: ouch"),
        (
            answer(502),
            errors.Unavailable,
            "http 502: received unexpected HTTP status from https://r.example/v2/x",
        ),
    ],
)
def test_failures_in_dockers_words(given: Answer, kind: type[errors.CutawayError], said: str) -> None:
    error = failure(given, parse("team/x:1"))
    assert (type(error), str(error)) == (kind, said)


@given(st.integers(400, 599), st.binary(max_size=300))
def test_any_answer_becomes_one_line(status: int, body: bytes) -> None:
    text = str(failure(Answer(status, body, "https://r.example/"), parse("x:1")))
    assert text.isprintable() and "\n" not in text


def test_words_of_a_peer_are_tamed() -> None:
    assert failures.one_line("a\r\n\x1b[31mb" + "c" * 5000) == "a   [31mb" + "c" * (failures.MAX_TEXT - 9)
