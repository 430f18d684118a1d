"""`docker search` on our engine beside dockerd: a registry on loopback that still has an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from engine.engine_stack import Stack
from support.peers import need
from support.stack import Engine, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

RESULTS = [
    {
        "name": "team/app",
        "description": "An app",
        "star_count": 7,
        "is_official": False,
        "is_automated": False,
    },
    {"name": "app", "description": "The app\nin two lines", "star_count": 90, "is_official": True},
    {"name": "more/apps", "description": None, "star_count": 0, "is_official": False, "is_automated": True},
]


class Index(BaseHTTPRequestHandler):
    """The first version's search, without login."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/v1/_ping":
            self.say(200, b"true")
        elif url.path == "/v1/search" and query["q"] == "broken":
            self.say(200, b'{"results": 7}')
        elif url.path == "/v1/search" and query["q"] != "refused":
            self.say(200, json.dumps({"query": query["q"], "results": RESULTS[: int(query["n"])]}).encode())
        else:
            self.say(404, b"{}")

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture(scope="module")
def index(shared_stack: Stack) -> Iterator[str]:
    """HOST:PORT of an index that both engines reach."""
    server = shared_stack.netns.call(ThreadingHTTPServer, ("127.0.0.1", 0), Index)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def dockerd(shared_stack: Stack) -> Iterator[RealDockerd]:
    need("dockerd")
    base = shared_stack.engine.folder.parent
    with RealDockerd(base, shared_stack.netns, name="real") as real:
        yield real


def said(engine: Engine, *arguments: str) -> tuple[int, str, str]:
    done = engine.docker("search", *arguments, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--no-trunc",),
        ("--limit", "1"),
        ("--filter", "stars=8"),
        ("--filter", "is-official=true"),
        ("--filter", "is-official=false"),
        ("--filter", "is-automated=true"),
        ("--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}"),
        ("--filter", "stars=x"),
        ("--filter", "is-official=x"),
        ("--limit", "101"),
        ("--limit", "-1"),
    ],
)
def test_search_prints_what_dockerd_has_it_print(
    shared_stack: Stack, dockerd: RealDockerd, index: str, arguments: tuple[str, ...]
) -> None:
    words = (*arguments, f"{index}/app")
    assert said(shared_stack.engine, *words) == said(dockerd, *words)


def test_a_registry_without_an_index_is_told_as_dockerd_tells_it(
    shared_stack: Stack, dockerd: RealDockerd, index: str
) -> None:
    ours, real = (said(engine, f"{index}/refused") for engine in (shared_stack.engine, dockerd))
    assert ours == real
    assert "Unexpected status code 404" in ours[2]


@pytest.mark.parametrize(
    ("term", "status", "said"),
    [
        (
            "https://x.example/app",
            400,
            "invalid repository name: repository name (https://x.example/app) should",
        ),
        ("a b.c/x", 400, "invalid registry host 'a b.c'"),
        ("127.0.0.1:1/x", 503, "connect: connection refused"),
        ("INDEX/broken", 500, "the registry's answer to the search is none"),
    ],
)
def test_what_cannot_be_searched_for(
    shared_stack: Stack, index: str, term: str, status: int, said: str
) -> None:
    term = term.replace("INDEX", index)
    code, answer = shared_stack.ask("GET", f"/images/search?term={quote(term, safe='')}")
    assert (code, said in answer["message"]) == (status, True), answer


def test_a_filter_that_search_has_not(shared_stack: Stack) -> None:
    filters = quote(json.dumps({"colour": ["red"]}))
    code, answer = shared_stack.ask("GET", f"/images/search?term=x&filters={filters}")
    assert (code, answer["message"]) == (400, "invalid filter 'colour'")
