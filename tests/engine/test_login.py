"""Logins through the engine, by the real docker: the words are dockerd's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.engine_stack import Stack
from support.peers import need
from support.stack import GuardedRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module")
def guarded(shared_stack: Stack) -> Iterator[GuardedRegistry]:
    need("docker-registry")
    with GuardedRegistry(shared_stack.engine.folder, shared_stack.netns) as running:
        yield running


def log_in(stack: Stack, server: str, password: str) -> tuple[int, str, str]:
    words = ("login", "-u", GuardedRegistry.user, "--password-stdin", server)
    done = stack.engine.docker(*words, input=password, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_right_password_opens_the_registry(shared_stack: Stack, guarded: GuardedRegistry) -> None:
    name = f"{guarded.host}/nothing:1"
    said = shared_stack.fails("pull", name)[1]
    assert "no basic auth credentials" in said
    assert log_in(shared_stack, guarded.host, guarded.password)[:2] == (0, "Login Succeeded\n")
    assert "manifest unknown" in shared_stack.fails("pull", name)[1]
    shared_stack.docker("logout", guarded.host)
    assert "no basic auth credentials" in shared_stack.fails("pull", name)[1]


def test_a_wrong_password_is_refused(shared_stack: Stack, guarded: GuardedRegistry) -> None:
    said = f"login attempt to http://{guarded.host}/v2/ failed with status: 401 Unauthorized"
    assert log_in(shared_stack, guarded.host, "x") == (1, "", f"Error response from daemon: {said}\n")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("127.0.0.1:1", 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'),
        ("a b", "invalid registry host 'a b'"),
    ],
)
def test_a_registry_that_cannot_be_asked(shared_stack: Stack, server: str, said: str) -> None:
    code, _, err = log_in(shared_stack, server, "x")
    assert (code, said in err) == (1, True), err
