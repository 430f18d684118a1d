"""Records by gRPC on ours and on containerd: the same requests in the same order, the same answers.

Compared are all fields but times, and of refusals code and text. Left out is only what our page of the
seam tells to be different.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from containerd.client import Client, digest_of
from cutaway.pb import (
    containers_pb2,
    content_pb2,
    health_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
)
from cutaway.pb.service import methods
from support.netns import NetNs
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

Step = tuple[str, Mapping[str, Any]]

MODULES: dict[str, ModuleType] = {
    "Containers": containers_pb2, "Content": content_pb2, "Health": health_pb2, "Images": images_pb2,
    "Introspection": introspection_pb2, "Leases": leases_pb2, "Namespaces": namespaces_pb2,
    "Snapshots": snapshots_pb2, "Tasks": tasks_pb2,
}  # fmt: skip
TIMES = re.compile(r"\s*(created|updated|started)_at \{[^}]*\}")
FOLDER = re.compile(r"ROOT/(io\.containerd\.\w+\.v1\.\w+/)?snapshots/\d+(/fs)?")


@pytest.fixture(scope="module")
def daemons(session_base: Path, session_netns: NetNs) -> Iterator[tuple[Containerd, Containerd]]:
    need("containerd")
    with (
        OurContainerd(session_base, session_netns, name="r-own") as ours,
        RealContainerd(session_base, session_netns, name="r-real") as theirs,
    ):
        yield ours, theirs


def shown(message: Message, daemon: Containerd) -> str:
    """A message without times, and where the daemon keeps its files."""
    text = TIMES.sub("", MessageToString(message))
    return FOLDER.sub("FOLDER", text.replace(str(daemon.root), "ROOT"))


def answer(client: Client, daemon: Containerd, step: Step) -> object:
    """What a request gets: messages, or code and text of the refusal."""
    rpc, fields = step
    service, name = rpc.split("/")
    method = methods(MODULES[service].DESCRIPTOR, service)[name]
    request = method.request(**fields)
    try:
        got = client.call(MODULES[service], rpc, iter([request]) if method.client_streaming else request)
        found = [shown(one, daemon) for one in (got if method.server_streaming else [got])]
    except grpc.RpcError as error:
        # containerd's snapshotters have keys of their own.
        return error.code().name, re.sub(rf"{client.metadata[0][1]}/\d+/", "", error.details())
    return found[:1] if method.client_streaming else found  # containerd says its last word twice


def assert_alike(daemons: tuple[Containerd, Containerd], namespace: str, steps: list[Step]) -> None:
    with Client(daemons[0].address, namespace) as one, Client(daemons[1].address, namespace) as other:
        for client in (one, other):
            if namespace.isalpha() and len(namespace) < 20:
                client.lease("held")
                client.metadata.append(("containerd-lease", "held"))
        for number, step in enumerate(steps):
            ours, theirs = answer(one, daemons[0], step), answer(other, daemons[1], step)
            assert ours == theirs, f"{number}: {step}"


LONG = {"a": "x" * 5000}
NO_KEY = {"": "x"}
SPEC = {"type_url": "x", "value": b"{}"}
RUNC = {"name": "io.containerd.runc.v2"}


def made(**fields: Any) -> Step:
    return "Containers/Create", {"container": {"id": "c1", "spec": SPEC, "runtime": RUNC, **fields}}


def changed(*paths: str, **fields: Any) -> Step:
    mask = {"update_mask": {"paths": paths}} if paths else {}
    return "Containers/Update", {"container": {"id": "c1", **fields}, **mask}


GET = ("Containers/Get", {"id": "c1"})


def containers() -> Iterator[Step]:
    yield from (made(), GET, made(), made(id=""), made(id="x" * 77), made(id="a/b"), made(id="-a"))
    yield from (made(id="a-"), made(id="a..b"), made(id="ü"), made(id="n", spec=None))
    yield from (made(id="n", runtime=None), ("Containers/Create", {}), made(id="c2", snapshot_key="k"))
    yield from (made(id="c3", snapshotter="s"), made(id="c5", labels=LONG), made(id="c9", labels={"a": ""}))
    yield made(id="c6", labels={"a": "x" * 4095})
    yield made(id="c7", extensions={"e": SPEC})
    yield made(id="c8", extensions={"": SPEC})
    for wanted in ((), ("id==c1",), ("labels",), ("labels.a",), ("runtime",), ("runtime.name",), ("image",),
                   ("snapshotter==s",), ("bogus",), ("id==c1", "id==c7"), ("",), ("bad=",)):  # fmt: skip
        yield "Containers/List", {"filters": wanted}
    yield from (changed(id=""), changed(id="zz"), changed())
    yield from (changed("labels", labels={"q": "r", "s": "t"}), changed("labels.q", labels={"q": "2"}))
    yield from (changed("labels.s"), GET, changed("labels.a.b/c", labels={"a.b/c": "2"}))
    yield from (changed("spec", spec={"type_url": "y", "value": b"[]"}), changed("spec"), GET)
    yield from (changed("image", image="i"), changed("snapshotkey", snapshot_key="k"))
    yield from (changed("snapshot_key"), changed("snapshotkey", "image", snapshot_key="k"))
    yield from (changed(path) for path in ("runtime", "id", "snapshotter", "bogus", "Labels"))
    yield from (changed("extensions", extensions={"e": SPEC}), GET)
    yield from (changed("extensions.f", extensions={"f": SPEC}), GET)
    yield from (changed(spec=SPEC, runtime=RUNC, image="z", labels={"n": "1"}, extensions={"e": SPEC}),)
    yield from (changed(spec=SPEC, runtime={"name": "other"}), changed(spec=SPEC, snapshotter="u"))
    yield changed(runtime=RUNC)
    for id in ("", "none", "c1"):
        yield "Containers/Delete", {"id": id}
        yield "Containers/Get", {"id": id}
    yield "Containers/ListStream", {}


DIGEST = digest_of(b"some")
TARGET = {"media_type": "m", "digest": DIGEST, "size": 3}
OTHER = {"media_type": "m2", "digest": digest_of(b"other"), "size": 4, "annotations": {"a": "b"}}


def named(name: str, target: Mapping[str, Any] | None = TARGET, **fields: Any) -> Step:
    return "Images/Create", {"image": {"name": name, "target": target, **fields}}


def renamed(*paths: str, name: str = "i1", **fields: Any) -> Step:
    mask = {"update_mask": {"paths": paths}} if paths else {}
    return "Images/Update", {"image": {"name": name, **fields}, **mask}


def images() -> Iterator[Step]:
    show = ("Images/Get", {"name": "i1"})
    yield from (named("i1"), show, named("i1"), named(""), named("n", None), named("n", {}))
    for broken in ({"digest": "x"}, {"size": 0}, {"size": -1}, {"media_type": ""}):
        yield named("n", {**TARGET, **broken})
    for kind, length in (("sha512", 128), ("sha384", 96), ("md5", 32), ("sha256", 10)):
        yield named(kind, {**TARGET, "digest": f"{kind}:{'a' * length}"})
    yield from (named("a b/c"), named("l", labels={"a": "b"}), named("l2", labels=LONG))
    yield from (named("e", labels={"a": ""}), named("ann", OTHER), named("old", created_at={"seconds": 5}))
    for wanted in (
        "", "name==i1", "target.digest~=aaa", "target.mediatype==m2", "target.size==4", "labels.a", "target",
        "target.annotations.a==b", "annotations.a==b", "bogus", "name~=^i", "bad==",
    ):  # fmt: skip
        yield "Images/List", {"filters": [wanted]}
    yield from (renamed(name=""), renamed(name="none"), renamed(name="none", target=OTHER), renamed())
    yield from (renamed(target=OTHER), show, renamed(target=OTHER, labels={"x": "y"}), show)
    yield from (renamed("labels", labels={"l": "1"}), renamed("labels.l"), show)
    yield from (renamed("labels.m", labels={"m": "1", "n": "2"}), renamed("target", target=TARGET))
    noted = {"annotations": {"q": "r"}}
    for path in ("target.size", "target.annotations", "target.annotations.q", "annotations.q", "annotations",
                 "name", "created_at", "target"):  # fmt: skip
        yield renamed(path, target=noted)
    yield show
    for name in ("", "none", "l"):
        yield "Images/Delete", {"name": name, "sync": True}
        yield "Images/Get", {"name": name}


def space(kind: str, *paths: str, name: str = "records", **labels: str) -> Step:
    mask = {"update_mask": {"paths": paths}} if paths else {}
    return f"Namespaces/{kind}", {"namespace": {"name": name, "labels": labels}, **mask}


def namespaces() -> Iterator[Step]:
    show = ("Namespaces/Get", {"name": "records"})
    yield from (space("Create"), space("Create"), space("Create", name=""), space("Create", name="a/b"))
    yield from (space("Create", name="long", **LONG), space("Create", name="two", a="b", c=""))
    yield from (("Namespaces/Get", {"name": name}) for name in ("two", "none", ""))
    yield from (space("Update", x="y"), show, space("Update", z="y"), show)
    yield from (space("Update", "labels", k="v"), space("Update", "labels.k"), show)
    yield from (space("Update", "labels.j", "labels.k", j="1", k="2"), show)
    yield from (space("Update", path) for path in ("name", "bogus"))
    yield from (space("Update", name="made", a="b"), space("Update", name="none"), space("Update", name=""))
    yield from (("Namespaces/Delete", {"name": name}) for name in ("none", "", "records", "two", "records"))


def leases() -> Iterator[Step]:
    yield from (("Leases/Create", {"id": id}) for id in ("l1", "l1", "a/b c"))
    yield from (("Leases/Create", {"id": f"l-{key}", "labels": {key: "b"}}) for key in ("a", "", "x" * 5000))
    yield from (("Leases/List", {"filters": [one]}) for one in ("", "id==l1", "labels.a==b", "bogus", "x="))
    resources = [
        ("content", DIGEST), ("content", "zz"), ("bogus", "x"), ("snapshots/overlayfs", "k"),
        ("snapshots", "k"), ("snapshots/nosuch", "k"), ("ingests", "r"), ("", ""), ("content", ""),
        ("content/x", DIGEST), ("images", "x"), ("ingests/x", "x"), ("snapshots/a/b", "x"),
    ]  # fmt: skip
    for method in ("AddResource", "DeleteResource"):
        for kind, id in resources:
            yield f"Leases/{method}", {"id": "l1", "resource": {"type": kind, "id": id}}
        yield f"Leases/{method}", {"id": "none", "resource": {"type": "content", "id": DIGEST}}
        yield from (("Leases/ListResources", {"id": id}) for id in ("l1", "none"))
    for id in ("none", "", "l1", "l-a"):
        yield "Leases/Delete", {"id": id, "sync": True}
    yield "Leases/List", {}


HELLO = b"hello world"
BLOB = digest_of(HELLO)
WRITE, COMMIT = content_pb2.WRITE, content_pb2.COMMIT


def wrote(ref: str, **fields: Any) -> Step:
    return "Content/Write", {"ref": ref, **fields}


def content() -> Iterator[Step]:
    def status(ref: str) -> Step:
        return "Content/Status", {"ref": ref}

    yield from (wrote(""), wrote("a"), status("a"), status(""), status("none"))
    for wanted in ("", "ref==a", "ref~=^a", "digest==x", "bad="):
        yield "Content/ListStatuses", {"filters": [wanted]}
    yield from (wrote("a", action=WRITE, data=HELLO[:5]), status("a"))
    yield from (wrote("a", total=11, expected=BLOB), status("a"))
    yield wrote("a", action=WRITE, data=HELLO[5:], offset=5, total=11, expected=BLOB)
    yield from (wrote("a", action=COMMIT, offset=11, total=10), status("a"))
    yield wrote("a", action=COMMIT, offset=11, total=11, expected=DIGEST)
    yield wrote("a", action=COMMIT, offset=11, total=11, expected=BLOB, labels={"l": "1"})
    yield status("a")
    digests = (
        BLOB,
        "x",
        "",
        DIGEST,
        "sha512:" + "a" * 128,
        "md5:" + "a" * 32,
        "sha256:" + "A" * 64,
        "sha256:a",
    )
    for digest in digests:
        yield "Content/Info", {"digest": digest}
        yield "Content/Read", {"digest": digest}
        yield "Content/Update", {"info": {"digest": digest, "labels": {"m": "2"}}}
    for offset, size in ((3, 0), (3, 4), (0, 100), (11, 0), (12, 0), (-1, 0), (0, -1), (5, -7)):
        yield "Content/Read", {"digest": BLOB, "offset": offset, "size": size}
    for wanted in ("", f"digest=={BLOB}", "size==11", "size", "labels.m==2", "bogus", "bad="):
        yield "Content/List", {"filters": [wanted]}
    for paths, labels in (
        (["labels"], {"n": "2"}), (["labels.n"], {}), (["labels.o", "labels.p"], {"o": "2", "q": "r"}),
        (["digest"], {}), (["labels", ""], {}), (["labels.z"], LONG), (["labels.a"], LONG),
    ):  # fmt: skip
        yield "Content/Update", {"info": {"digest": BLOB, "labels": labels}, "update_mask": {"paths": paths}}
    yield from (wrote("b", expected=BLOB), wrote("b", action=COMMIT, data=HELLO, expected=BLOB))
    yield from (wrote("c", action=WRITE, data=b"x", offset=3), wrote("c", action=WRITE, data=b"x", offset=-3))
    yield from (wrote("d", action=WRITE, data=b"abc", total=2), status("d"))
    # Another size under the same ref: another blob, begun anew.
    yield wrote("d", action=WRITE, data=b"d", offset=3, total=5)
    for kind, length in (("sha512", 128), ("sha384", 96)):
        yield wrote(kind, action=COMMIT, data=b"some", expected=f"{kind}:{'a' * length}")
    yield from (
        wrote("l", action=COMMIT, data=b"l", labels=LONG),
        wrote("e", action=COMMIT),
        wrote("t", total=-5),
    )
    yield status("t")
    yield from (("Content/Abort", {"ref": ref}) for ref in ("t", "t", "", "none"))
    yield from (("Content/Delete", {"digest": digest}) for digest in (BLOB, BLOB, "x", ""))


def snapshots(name: str) -> Iterator[Step]:
    def on(method: str, *paths: str, **fields: Any) -> Step:
        mask = {"update_mask": {"paths": paths}} if paths else {}
        return f"Snapshots/{method}", {"snapshotter": name, **fields, **mask}

    def stat(key: str) -> Step:
        return on("Stat", key=key)

    inherited = {"a": "b", "containerd.io/gc.root": "1", "containerd.io/snapshot/x": "y"}
    yield from (on("Prepare", key="l", labels=inherited) for _ in range(2))
    yield from (stat("l"), on("Commit", key="l", name="lc"), stat("lc"))
    yield from (on("Prepare", key="e", labels=labels) for labels in (NO_KEY, LONG))
    yield on("Prepare", key="a")
    yield from (on("Prepare", key="c", parent=parent) for parent in ("a", "none"))
    yield from (on("View", key="v0"), stat("v0"), on("Commit", key="v0", name="x"))
    yield from (on("Commit", key="", name="x"), on("Commit", key="a", name="lc"))
    yield on("Commit", key="a", name="base", labels={"n": "1", "containerd.io/snapshot/x": "y"})
    yield from (on("Commit", key="a", name="base"), stat("base"), stat("a"), on("Prepare", key="base"))
    reference = "containerd.io/snapshot.ref"
    for key, target, commit in (("b", "tgt", "top"), ("b2", "top", ""), ("b3", "tgt", "tgt")):
        yield on("Prepare", key=key, parent="base", labels={reference: target})
        yield stat(key)
        yield from (on("Commit", key=key, name=commit),) if commit else ()
    yield from (stat("top"), on("Prepare", key="third", parent="top"), on("View", key="vt", parent="top"))
    yield from (on("Commit", key="third", name="x3", labels={"a": ""}), stat("x3"))
    for wanted in (
        "", "name==base", "kind==committed", "kind==Committed", "parent==base", "labels.n==1", "bogus",
        "bad=", "parent",
    ):  # fmt: skip
        yield on("List", filters=[wanted])
    for paths, labels in (
        ([], {"z": "1"}), (["labels"], {"y": "1"}), (["labels.y"], {}),
        (["labels.w", "labels.u"], {"w": "1"}), (["kind"], {}), (["parent"], {}), (["labels.a"], LONG),
        ([], {}),
    ):  # fmt: skip
        yield on("Update", *paths, info={"name": "base", "labels": labels})
    yield on("Update", info={"name": "none", "labels": {"a": "b"}})
    for key in ("none", ""):
        yield from (on(method, key=key) for method in ("Stat", "Mounts", "Usage", "Remove"))
    yield from (on("Remove", key=key) for key in ("base", "vt", "x3", "top", "x3"))
    yield on("List")


def unknown() -> Iterator[Step]:
    """Names of snapshotters and services that nobody has."""
    for name in ("", "zfs"):
        for method in ("Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Usage"):
            yield f"Snapshots/{method}", {"snapshotter": name, "key": "a"}
        yield from ((f"Snapshots/{method}", {"snapshotter": name}) for method in ("List", "Cleanup"))
    yield from (("Health/Check", {"service": name}) for name in ("", "x"))
    for wanted in (
        "bad=",
        "id==native",
        "type==io.containerd.grpc.v1,id==diff",
        "capabilities.x",
        "platforms",
    ):
        yield "Introspection/Plugins", {"filters": [wanted]}


def strange() -> Iterator[Step]:
    """What is asked of every service in a namespace that cannot be."""
    lists = ("Containers", "Images", "Content", "Leases", "Tasks")
    yield from ((f"{service}/List", {}) for service in lists)
    yield from (("Content/ListStatuses", {}), ("Tasks/Get", {"container_id": "x"}))
    yield from ((f"Content/{method}", {"digest": BLOB}) for method in ("Info", "Read", "Delete"))
    yield from (("Content/Update", {"info": {"digest": BLOB}}), wrote("q"), ("Leases/Create", {"id": "l"}))


TABLES = {
    "containers": containers(), "images": images(), "namespaces": namespaces(), "leases": leases(),
    "content": content(), "overlayfs": snapshots("overlayfs"), "native": snapshots("native"),
    "unknown": unknown(),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_records_are_kept_as_by_containerd(daemons: tuple[Containerd, Containerd], table: str) -> None:
    assert_alike(daemons, table, list(TABLES[table]))


@pytest.mark.parametrize("namespace", ["", "a/b", "-", "x" * 77])
def test_a_namespace_that_cannot_be(daemons: tuple[Containerd, Containerd], namespace: str) -> None:
    assert_alike(daemons, namespace, list(strange()))
