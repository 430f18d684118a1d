"""The container service alone, by gRPC: records among a thousand, and content there and back."""

from __future__ import annotations

import hashlib
import os
import queue
from collections.abc import Callable
from pathlib import Path

from google.protobuf.any_pb2 import Any

from bench.measure import Series, alternate
from bench.report import Row
from containerd.client import COMMIT, WRITE, Client
from cutaway.pb import containers_pb2 as records
from cutaway.pb import content_pb2 as content
from support.netns import NetNs
from support.stack import Containerd, OurContainerd, RealContainerd

FEW, MANY = 10, 1000
SIZE, CHUNK = 64 << 20, 1 << 20


def service(base: Path, rounds: int) -> list[Row]:
    with (
        NetNs() as netns,
        OurContainerd(base, netns, name="s-own") as ours,
        RealContainerd(base, netns, name="s-real") as real,
    ):
        return [*_records(ours, real, rounds), *_content(ours, real, rounds)]


def _records(ours: Containerd, real: Containerd, rounds: int) -> list[Row]:
    with (
        Client(ours.address, "few") as own_few,
        Client(ours.address, "many") as own_many,
        Client(real.address, "many") as real_many,
    ):
        for client, number in ((own_few, FEW), (own_many, MANY), (real_many, MANY)):
            for at in range(number):
                _create(client, f"c{at}")

        def get(client: Client) -> Callable[[], None]:
            return lambda: client.call(records, "Containers/Get", records.GetContainerRequest(id="c5"))

        def show(client: Client) -> Callable[[], None]:
            return lambda: client.call(records, "Containers/List", records.ListContainersRequest())

        times = alternate(
            {
                "get few": get(own_few),
                "get": get(own_many),
                "get real": get(real_many),
                "list": show(own_many),
                "list real": show(real_many),
            },
            rounds,
        )
    return [
        Row(f"get one of {MANY} containers: our service / containerd", times["get"], times["get real"]),
        Row(f"get one of {MANY} containers / of {FEW}, both ours", times["get"], times["get few"], 1.3),
        Row(f"list {MANY} containers: our service / containerd", times["list"], times["list real"]),
    ]


def _create(client: Client, id: str) -> None:
    container = records.Container(
        id=id,
        labels={"number": id},
        runtime=records.Container.Runtime(name="io.containerd.runc.v2"),
        spec=Any(type_url="spec", value=b"{}" * 4000),
    )
    client.call(records, "Containers/Create", records.CreateContainerRequest(container=container))


def _content(ours: Containerd, real: Containerd, rounds: int) -> list[Row]:
    """Goals are times, so that 1 / 0.7 is seven tenths of containerd's throughput."""
    megabytes = SIZE >> 20
    with Client.leased(ours.address) as own, Client.leased(real.address) as other:
        data = os.urandom(SIZE)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        times: dict[str, Series] = {}
        for name, work in (("write", _write), ("read", _read)):
            commands = {
                f"{name} {side}": lambda client=client, work=work: work(client, data, digest)
                for side, client in (("ours", own), ("real", other))
            }
            if name == "read":
                for client in (own, other):
                    _send(client, data, digest)
            times |= alternate(commands, max(2, rounds // 4))
    return [
        Row(f"{name} {megabytes} MiB of content: our service / containerd", times[f"{name} ours"],
            times[f"{name} real"], 1 / 0.7)
        for name in ("write", "read")
    ]  # fmt: skip


def _write(client: Client, data: bytes, digest: str) -> None:
    _send(client, data, digest)
    client.call(content, "Content/Delete", content.DeleteContentRequest(digest=digest))


def _send(client: Client, data: bytes, digest: str) -> None:
    """As clients do: the next chunk when the last one is answered."""
    requests: queue.Queue[content.WriteContentRequest | None] = queue.Queue()
    answers = client.call(content, "Content/Write", iter(requests.get, None))
    for at in range(0, SIZE, CHUNK):
        requests.put(
            content.WriteContentRequest(
                action=WRITE, ref=digest, total=SIZE, offset=at, data=data[at : at + CHUNK]
            )
        )
        next(answers)
    requests.put(content.WriteContentRequest(action=COMMIT, total=SIZE, offset=SIZE, expected=digest))
    next(answers)
    requests.put(None)
    for _ in answers:
        pass  # containerd says its last word twice


def _read(client: Client, data: bytes, digest: str) -> None:
    found = client.call(content, "Content/Read", content.ReadContentRequest(digest=digest))
    if sum(len(part.data) for part in found) != len(data):
        raise SystemExit(f"bench: {digest} came back shorter than it went")
