"""Records: migrations, transactions, and the rules of namespaces, images, containers and leases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cutaway.containerd import gc
from cutaway.containerd.filters import parse_all
from cutaway.containerd.metadata import blobs, containers, images, leases, namespaces, schema, snapshots
from cutaway.containerd.metadata.containers import Container, Typed
from cutaway.containerd.metadata.database import Database, Transaction, server_uuid
from cutaway.containerd.metadata.images import Image, Target
from cutaway.containerd.metadata.leases import Resource
from cutaway.containerd.metadata.snapshots import Kind, Space
from cutaway.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented

ALL = parse_all([])
OVERLAY = Space("ns", "overlayfs")


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Transaction]:
    database = Database(tmp_path / "db")
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    connection.execute("PRAGMA foreign_keys=ON")
    yield connection
    connection.close()
    database.close()


@pytest.mark.parametrize("version", range(len(schema.MIGRATIONS)))
def test_every_version_is_brought_up_to_date(version: int) -> None:
    old, new = (
        sqlite3.connect(":memory:", isolation_level=None),
        sqlite3.connect(":memory:", isolation_level=None),
    )
    schema.migrate(old, to=version)
    schema.migrate(old)
    schema.migrate(new)
    shape = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    assert old.execute(shape).fetchall() == new.execute(shape).fetchall()
    assert old.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    old.close()
    new.close()


def test_a_newer_release_s_records_are_left_alone(tmp_path: Path) -> None:
    Database(tmp_path / "db").close()
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FailedPrecondition, match="version 99"):
        Database(tmp_path / "db")


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"x" * 5000])
def test_damaged_records_are_said_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(
        FailedPrecondition, match=r"db cannot be used: .*; restore it, or choose another --root$"
    ):
        Database(tmp_path / "db")


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    def fails(tx: Transaction) -> None:
        namespaces.create(tx, "ns", {})
        raise NotFound("x")

    async def run() -> None:
        database = Database(tmp_path / "db")
        with pytest.raises(NotFound):
            await database.write(fails)
        assert await database.read(namespaces.all_of_them) == []
        await database.write_durably(namespaces.create, "ns", {})
        assert await database.read(namespaces.all_of_them) == [("ns", {})]
        database.close()

    asyncio.run(run())


def test_the_servers_identity_stays(tmp_path: Path) -> None:
    first = Database(tmp_path / "db")
    identity = first.write_now(server_uuid)
    first.close()
    second = Database(tmp_path / "db")
    assert second.write_now(server_uuid) == identity
    second.close()


def test_namespaces(tx: Transaction) -> None:
    namespaces.create(tx, "ns", {"a": "b"})
    with pytest.raises(AlreadyExists, match='namespace "ns": already exists'):
        namespaces.create(tx, "ns", {})
    assert namespaces.update(tx, "ns", {"c": "d", "e": "f"}, []) == {"c": "d", "e": "f"}
    assert namespaces.update(tx, "ns", {"e": "g"}, ["labels.c", "labels.e"]) == {"e": "g"}
    with pytest.raises(InvalidArgument, match='cannot update "labels"'):
        namespaces.update(tx, "ns", {"e": "f"}, ["labels"])
    with pytest.raises(InvalidArgument, match='cannot update "name"'):
        namespaces.update(tx, "ns", {}, ["name"])
    with pytest.raises(InvalidArgument):
        namespaces.create(tx, "bad/name", {})
    with pytest.raises(InvalidArgument, match="4096 bytes"):
        namespaces.create(tx, "big", {"a": "b" * 5000})


def test_only_an_empty_namespace_is_removed(tx: Transaction) -> None:
    images.create(tx, "ns", IMAGE)
    blobs.add(tx, "ns", digest("a"), 1, {})
    snapshots.create(tx, OVERLAY, "s", "", Kind.ACTIVE, {}, "")
    with pytest.raises(FailedPrecondition) as caught:
        namespaces.delete(tx, "ns")
    assert str(caught.value) == (
        'namespace "ns" must be empty, but it still has images, blobs, snapshots on "overlayfs" snapshotter: '
        "failed precondition"
    )
    images.delete(tx, "ns", IMAGE.name)
    blobs.delete(tx, "ns", digest("a"), "")
    snapshots.remove(tx, OVERLAY, "s", "")
    namespaces.delete(tx, "ns")
    with pytest.raises(NotFound):
        namespaces.delete(tx, "ns")


IMAGE = Image("docker.io/library/x:latest", {"a.b": "c"}, Target("type", digest("1"), 5, {"n": "1"}))


def test_images(tx: Transaction) -> None:
    made = images.create(tx, "ns", IMAGE)
    assert made.created == made.updated > 0
    assert images.get(tx, "ns", IMAGE.name) == made
    with pytest.raises(AlreadyExists, match=r'image ".*": already exists'):
        images.create(tx, "ns", IMAGE)
    with pytest.raises(NotFound, match=r'image ".*": not found'):
        images.get(tx, "other", IMAGE.name)
    assert [one.name for one in images.find(tx, "ns", parse_all(["target.digest==" + digest("1")]))] == [
        IMAGE.name
    ]
    assert images.find(tx, "ns", parse_all(["name==y", 'labels."a.b"==d'])) == []


def test_an_images_mask_says_what_changes(tx: Transaction) -> None:
    made = images.create(tx, "ns", IMAGE)
    new = Image(IMAGE.name, {"x": "y", "a.b": ""}, Target("other", digest("2"), 6, {"m": "2"}))
    assert images.update(tx, "ns", new, ["labels.x"]).labels == {"a.b": "c", "x": "y"}
    assert images.update(tx, "ns", new, ["labels.a.b"]).labels == {"x": "y"}
    assert images.update(tx, "ns", new, ["annotations.m"]).target.annotations == {"n": "1", "m": "2"}
    assert images.get(tx, "ns", IMAGE.name).target.digest == digest("1")
    changed = images.update(tx, "ns", new, ["target"])
    assert (changed.target, changed.created) == (new.target, made.created)
    assert images.update(tx, "ns", replace(new, labels={"z": "1"}), []).labels == {"z": "1"}
    with pytest.raises(InvalidArgument, match='cannot update "name" field'):
        images.update(tx, "ns", new, ["name"])


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (replace(IMAGE, name=""), "name must not be empty"),
        (replace(IMAGE, target=replace(IMAGE.target, digest="sha256:1")), "Target.Digest"),
        (replace(IMAGE, target=replace(IMAGE.target, size=0)), "Target.Size"),
        (replace(IMAGE, target=replace(IMAGE.target, media_type="")), "Target.MediaType"),
    ],
)
def test_images_that_cannot_be(tx: Transaction, image: Image, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        images.create(tx, "ns", image)


def test_an_image_is_removed_only_as_it_was_seen(tx: Transaction) -> None:
    images.create(tx, "ns", IMAGE)
    with pytest.raises(NotFound):
        images.delete(tx, "ns", IMAGE.name, digest("9"))
    images.delete(tx, "ns", IMAGE.name, digest("1"))
    assert images.find(tx, "ns", ALL) == []


RAW = bytes(range(256))
CONTAINER = Container("one", "io.containerd.runc.v2", None, Typed("any/type", RAW), labels={"a": "b"})


def test_containers_give_back_what_they_were_given(tx: Transaction) -> None:
    whole = replace(
        CONTAINER,
        options=Typed("", b""),
        image="x",
        snapshotter="overlayfs",
        snapshot_key="k",
        sandbox="s",
        extensions={"e": Typed("t", RAW), "f": Typed("", b"")},
    )
    made = containers.create(tx, "ns", whole)
    assert (
        containers.get(tx, "ns", "one") == made == replace(whole, created=made.created, updated=made.created)
    )
    other = containers.create(tx, "ns", replace(CONTAINER, id="two"))
    assert containers.get(tx, "ns", "two").options is None
    assert containers.find(tx, "ns", parse_all(["id==two"])) == [other]
    assert containers.find(tx, "ns", parse_all(["runtime.name~=runc", "image==x"])) == [made, other]
    with pytest.raises(AlreadyExists, match='container "one": already exists'):
        containers.create(tx, "ns", CONTAINER)
    with pytest.raises(NotFound, match='container "one" in namespace "other": not found'):
        containers.get(tx, "other", "one")


def test_a_containers_mask_says_what_changes(tx: Transaction) -> None:
    containers.create(tx, "ns", replace(CONTAINER, extensions={"old": Typed("t", b"1")}))
    new = replace(
        CONTAINER, spec=Typed("s", b"2"), labels={"c": "d"}, image="i", extensions={"new": Typed("t", b"3")}
    )
    assert containers.update(tx, "ns", new, ["labels.c"]).labels == {"a": "b", "c": "d"}
    assert set(containers.update(tx, "ns", new, ["extensions.new"]).extensions) == {"old", "new"}
    assert containers.get(tx, "ns", "one").spec == CONTAINER.spec
    changed = containers.update(tx, "ns", new, [])
    assert (changed.spec, changed.labels, changed.image) == (new.spec, new.labels, "i")
    with pytest.raises(InvalidArgument, match=r"Runtime\.Name field is immutable"):
        containers.update(tx, "ns", replace(new, runtime="other"), [])
    with pytest.raises(InvalidArgument, match="Snapshotter field is immutable"):
        containers.update(tx, "ns", replace(new, snapshotter="other"), [])
    with pytest.raises(InvalidArgument, match='cannot update "runtime" field'):
        containers.update(tx, "ns", new, ["runtime"])
    with pytest.raises(NotFound):
        containers.update(tx, "ns", replace(new, id="none"), [])


@pytest.mark.parametrize(
    ("container", "complaint"),
    [
        (replace(CONTAINER, id="bad/id"), "container.ID"),
        (replace(CONTAINER, runtime=""), "Runtime.Name must be set"),
        (replace(CONTAINER, spec=None), "Spec must be set"),
        (replace(CONTAINER, snapshot_key="k"), "Snapshotter must be set"),
        (replace(CONTAINER, extensions={"": Typed("t", b"")}), "zero-length"),
    ],
)
def test_containers_that_cannot_be(tx: Transaction, container: Container, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        containers.create(tx, "ns", container)


def test_leases_list_what_they_hold(tx: Transaction) -> None:
    leases.create(tx, "ns", "l", {"a": "b"})
    with pytest.raises(AlreadyExists):
        leases.create(tx, "ns", "l", {})
    wanted = [Resource("content", digest("a")), Resource("snapshots/overlayfs", "s")]
    for resource in wanted:
        leases.add(tx, "ns", "l", resource)
        leases.add(tx, "ns", "l", resource)
    assert leases.resources(tx, "ns", "l") == wanted
    leases.remove(tx, "ns", "l", wanted[0])
    assert leases.resources(tx, "ns", "l") == wanted[1:]
    assert [one.id for one in leases.find(tx, "ns", parse_all(["labels.a==b"]))] == ["l"]
    leases.delete(tx, "ns", "l")
    assert tx.execute("SELECT COUNT(*) FROM lease_resources").fetchone() == (0,)
    with pytest.raises(NotFound, match='lease "l": not found'):
        leases.resources(tx, "ns", "l")


@pytest.mark.parametrize(
    ("resource", "error"),
    [
        (Resource("snapshots", "s"), InvalidArgument),
        (Resource("content/x", digest("a")), InvalidArgument),
        (Resource("content", "sha256:1"), InvalidArgument),
        (Resource("nonsense", "x"), Unimplemented),
    ],
)
def test_resources_that_cannot_be(tx: Transaction, resource: Resource, error: type[Exception]) -> None:
    leases.create(tx, "ns", "l", {})
    with pytest.raises(error):
        leases.add(tx, "ns", "l", resource)


def test_what_a_call_makes_belongs_to_its_lease(tx: Transaction) -> None:
    leases.create(tx, "ns", "l", {})
    snapshots.create(tx, OVERLAY, "key", "", Kind.ACTIVE, {}, "l")
    snapshots.commit(tx, OVERLAY, "key", "name", (1, 1), {}, "l")
    assert leases.resources(tx, "ns", "l") == [Resource("snapshots/overlayfs", "name")]
    with pytest.raises(NotFound, match="lease does not exist: not found"):
        snapshots.create(tx, OVERLAY, "key", "", Kind.ACTIVE, {}, "gone")


# Garbage collection.


def sweep(tx: Transaction) -> gc.Collected:
    return gc.sweep(tx, lambda _namespace, ref: ref == "busy")


def left(tx: Transaction) -> set[str]:
    rows = tx.execute(
        "SELECT digest FROM blobs UNION ALL SELECT name FROM snapshots UNION ALL SELECT ref FROM ingests"
    )
    return {row[0][7] if row[0].startswith("sha256:") else row[0] for row in rows}


def fill(tx: Transaction) -> None:
    """Blobs a -> b -> c by labels, c -> snapshot two -> one by parent; d and three are nobody's."""
    blobs.add(tx, "ns", digest("a"), 1, {"containerd.io/gc.ref.content.0": digest("b")})
    blobs.add(tx, "ns", digest("b"), 1, {"containerd.io/gc.ref.content": digest("c")})
    blobs.add(tx, "ns", digest("c"), 1, {"containerd.io/gc.ref.snapshot.overlayfs": "two"})
    blobs.add(tx, "ns", digest("d"), 1, {"containerd.io/gc.ref.contentious": digest("a")})
    for name, parent in (("one", ""), ("two", "one"), ("three", "one")):
        snapshots.create(tx, OVERLAY, f"{name}-key", parent, Kind.ACTIVE, {}, "")
        snapshots.commit(tx, OVERLAY, f"{name}-key", name, (1, 1), {}, "")


def test_what_an_image_needs_stays(tx: Transaction) -> None:
    fill(tx)
    images.create(tx, "ns", replace(IMAGE, target=replace(IMAGE.target, digest=digest("a"))))
    found = sweep(tx)
    assert left(tx) == {"a", "b", "c", "one", "two"}
    assert found.digests == {digest("d")}
    assert len(found.snapshots) == 1
    images.delete(tx, "ns", IMAGE.name)
    sweep(tx)
    assert left(tx) == set()


@pytest.mark.parametrize(("time", "stays"), [("2001-01-01T00:00:00Z", False), ("2901-01-01T00:00:00Z", True)])
def test_an_image_whose_time_has_come_goes(tx: Transaction, time: str, stays: bool) -> None:
    blobs.add(tx, "ns", digest("a"), 1, {})
    target = replace(IMAGE.target, digest=digest("a"))
    images.create(tx, "ns", replace(IMAGE, target=target, labels={"containerd.io/gc.expire": time}))
    assert sweep(tx).images == ([] if stays else [("ns", IMAGE.name)])
    assert left(tx) == ({"a"} if stays else set())
    assert len(images.find(tx, "ns", parse_all([]))) == stays


def test_namespaces_do_not_keep_each_others_things(tx: Transaction) -> None:
    fill(tx)
    images.create(tx, "other", replace(IMAGE, target=replace(IMAGE.target, digest=digest("a"))))
    sweep(tx)
    assert left(tx) == set()


def test_a_containers_snapshot_stays(tx: Transaction) -> None:
    fill(tx)
    containers.create(tx, "ns", replace(CONTAINER, snapshotter="overlayfs", snapshot_key="three"))
    sweep(tx)
    assert left(tx) == {"one", "three"}


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ({}, {"b", "c", "one", "two"}),
        ({"containerd.io/gc.flat": "1"}, {"b"}),
        ({"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}, set()),
        ({"containerd.io/gc.expire": "2901-01-01T00:00:00.123+02:00"}, {"b", "c", "one", "two"}),
        ({"containerd.io/gc.expire": "soon"}, {"b", "c", "one", "two"}),
    ],
)
def test_a_live_lease_keeps_what_it_lists(tx: Transaction, labels: dict[str, str], kept: set[str]) -> None:
    fill(tx)
    leases.create(tx, "ns", "l", labels)
    leases.add(tx, "ns", "l", Resource("content", digest("b")))
    found = sweep(tx)
    assert left(tx) == kept
    assert found.leases == ([] if kept else ["l"])


def test_a_root_label_keeps_by_itself(tx: Transaction) -> None:
    fill(tx)
    snapshots.update(tx, OVERLAY, "three", {"containerd.io/gc.root": "x"}, [])
    blobs.update(tx, "ns", digest("d"), {"containerd.io/gc.root": "x"}, [])
    sweep(tx)
    assert left(tx) == {"d", "one", "three"}


def test_ingests_stay_while_they_are_young_leased_or_written(tx: Transaction) -> None:
    def begin(ref: str, lease: str = "", started: int = 0) -> None:
        blobs.begin(tx, blobs.Ingest("ns", ref, ref, 0, "", started, started), lease)

    leases.create(tx, "ns", "l", {})
    begin("old")
    begin("busy")
    begin("leased", "l")
    begin("young", started=1 << 62)
    found = sweep(tx)
    assert left(tx) == {"busy", "leased", "young"}
    assert found.folders == ["old"]


def test_a_blob_that_an_ingest_counts_on_stays(tx: Transaction) -> None:
    blobs.add(tx, "ns", digest("a"), 1, {})
    leases.create(tx, "ns", "l", {})
    blobs.begin(tx, blobs.Ingest("ns", "ref", "ref", 1, digest("a"), 0, 0), "l")
    sweep(tx)
    assert left(tx) == {"a", "ref"}
