"""Pulls while others delete: collections, in the background and asked for, take nothing that a pull needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from google.protobuf.message import Message

from containerd import layers
from containerd.client import Client
from cutaway.pb import content_pb2, images_pb2, leases_pb2, snapshots_pb2
from support.images import Image, Layer
from support.netns import NetNs
from support.peers import need
from support.process import wait_until
from support.stack import Containerd, OurContainerd, OurEngine, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

PULLS = 6


@pytest.fixture(scope="module")
def daemon(session_base: Path, session_netns: NetNs) -> Iterator[OurContainerd]:
    need("ctr")
    with OurContainerd(session_base, session_netns, name="gc") as running:
        yield running


@pytest.fixture(scope="module")
def reference(registry: RealRegistry) -> str:
    tars = (layers.base(), layers.changes(), layers.more())
    registry.push(Image(tuple(map(Layer, tars)), {"Env": []}), "library/collected")
    return f"{registry.host}/library/collected:latest"


def delete_things(daemon: Containerd, namespace: str, end: threading.Event) -> int:
    """Make and delete one of each kind, over and over, in every way that makes a collection due."""
    rounds = 0
    with Client(daemon.address, namespace) as client:
        while not end.is_set() or not rounds:
            rounds += 1
            name = f"passing-{rounds}"
            digest = client.ingest(f"{name} of {namespace}".encode())
            client.image(name, digest)
            client.lease(name)
            client.prepare(name)
            delete(client, snapshots_pb2, "Snapshots/Remove",
                   snapshots_pb2.RemoveSnapshotRequest(snapshotter="overlayfs", key=name))  # fmt: skip
            delete(client, leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=name))
            delete(client, images_pb2, "Images/Delete",
                   images_pb2.DeleteImageRequest(name=name, sync=rounds % 2 == 0))  # fmt: skip
            delete(client, content_pb2, "Content/Delete", content_pb2.DeleteContentRequest(digest=digest))
    return rounds


def delete(client: Client, module: ModuleType, rpc: str, request: Message) -> None:
    """Delete something, if it has not been collected before."""
    try:
        client.call(module, rpc, request)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error


@contextmanager
def deletions(daemon: Containerd, *namespaces: str) -> Iterator[list[int]]:
    """Delete things in other threads meanwhile; the numbers of rounds are there at the end."""
    end = threading.Event()
    rounds: list[int] = []

    def work(namespace: str) -> None:
        rounds.append(delete_things(daemon, namespace, end))

    threads = [threading.Thread(target=work, args=(namespace,)) for namespace in namespaces]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert len(rounds) == len(namespaces), "a thread has failed"


def names_of_snapshots(client: Client) -> set[str]:
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
    answers = client.call(snapshots_pb2, "Snapshots/List", request)
    return {info.name for answer in answers for info in answer.info}


def test_pulls_of_ctr_are_whole_while_others_delete(daemon: OurContainerd, reference: str) -> None:
    with deletions(daemon, daemon.namespace, "elsewhere"):
        for _ in range(PULLS):
            daemon.ctr("images", "pull", "--plain-http", reference)
            checked = daemon.ctr("images", "check", f"name=={reference}").stdout.splitlines()[1]
            # The configuration and three layers, and that they are unpacked.
            assert "complete (4/4)" in checked
            assert checked.split()[-1] == "true"
            daemon.ctr("images", "rm", "--sync", reference)
    with Client(daemon.address, daemon.namespace) as client:
        wait_until(lambda: (client.blobs(), names_of_snapshots(client)) == ([], set()), "nothing is left")


def test_pulls_of_our_engine_are_whole_while_others_delete(
    daemon: OurContainerd, reference: str, session_base: Path, session_netns: NetNs
) -> None:
    with (
        OurEngine(session_base, session_netns, daemon.address, name="gc-eng") as engine,
        deletions(daemon, "moby", "elsewhere"),
    ):
        for _ in range(PULLS):
            engine.docker("pull", "-q", reference)
            assert engine.docker("create", "--name", "made", reference, "true").returncode == 0
            assert engine.docker("image", "inspect", reference).returncode == 0
            engine.docker("rm", "made")
            engine.docker("rmi", reference)
