"""Filters on containerd and on ours, by gRPC: the same objects found, the same words for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given, settings
from hypothesis import strategies as st

from containerd.client import Client
from cutaway.pb import containers_pb2 as pb
from support.netns import NetNs
from support.peers import need
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

LABELS: list[dict[str, str]] = [
    {}, {"a": "b"}, {"a.b": "c d"}, {"x/y": 'q"uote'}, {"a": "b,c", "new": "line\nx"}, {"ü": "ö"},
    {"a": "/sl|ash/"}, {"back": "\\n"}, {"num": "12"},
]  # fmt: skip


@pytest.fixture(scope="module")
def clients(session_base: Path, session_netns: NetNs) -> Iterator[tuple[Client, Client]]:
    """Of ours and of containerd, with the same containers."""
    need("containerd")
    with (
        OurContainerd(session_base, session_netns, name="f-own") as ours,
        RealContainerd(session_base, session_netns, name="f-real") as theirs,
        Client(ours.address) as one,
        Client(theirs.address) as other,
    ):
        for client in (one, other):
            for number, labels in enumerate(LABELS):
                container = pb.Container(
                    id=f"id-{number}",
                    labels=labels,
                    image=f"im{number % 3}",
                    runtime=pb.Container.Runtime(name="rt"),
                    spec=Any(type_url="spec"),
                )
                client.call(pb, "Containers/Create", pb.CreateContainerRequest(container=container))
        yield one, other


def answer(client: Client, filters: list[str]) -> list[str] | tuple[str, str]:
    """The ids that are found, or code and text of the refusal."""
    try:
        found = client.call(pb, "Containers/List", pb.ListContainersRequest(filters=filters)).containers
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return [container.id for container in found]


GOOD = [
    "id==id-1", "labels.a", "labels.a==b", 'labels."a.b"=="c d"', "image!=im1", "id~=", "id~=/im[01]/",
    "id~=|id-[2-4]|", "labels.a~=", "runtime.name==rt", 'labels."x/y"~=', "labels.back==", "id!=id-3",
]  # fmt: skip
PIECES = [
    "id", "image", "labels", "a", "b", "x", ".", ",", "==", "!=", "~=", "=", "!", '"', "|", "/", "\\", "\\n",
    '"a.b"', "\\x61", "\\u00fc", "\\101", "\\400", "\\U00110000", "\\ud800", '\\"', "\\|", "ü", " ", "\t",
    "\n", "\x01", "\0", "id-", "^id", "[0-3]", "(a|b)", "+", "*", "?", "$", "(", ")", "[", "]", "{2}", "{,2}",
    "\\d", "(?i)", "(?P<x>a)", "(?<x>a)", "(?=a)", "[[:alpha:]]", "\\z", "\\Q", "\\E", "\\b", "\\xc3\\xbc",
]  # fmt: skip
NOISE = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
QUOTE = st.sampled_from(['"', "|", "/", ""])
PATTERN = st.tuples(st.sampled_from(["id~=", "labels.a~=", "image=="]), QUOTE, NOISE, QUOTE).map("".join)
TEXT = st.one_of(
    NOISE,
    PATTERN,
    st.tuples(st.sampled_from(GOOD), NOISE).map("".join),
    st.lists(st.sampled_from(GOOD), min_size=1, max_size=3).map(",".join),
)


@given(filters=st.lists(TEXT, min_size=1, max_size=2))
@settings(max_examples=1000, deadline=None, database=None)
def test_filters_are_those_of_containerd(clients: tuple[Client, Client], filters: list[str]) -> None:
    ours, theirs = clients
    assert answer(ours, filters) == answer(theirs, filters)
