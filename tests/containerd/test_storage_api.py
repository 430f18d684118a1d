"""The storage services over gRPC. All of it runs on containerd too: it is what clients rely on."""

from __future__ import annotations

import gzip
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import grpc
import pytest
import zstandard

from containerd import layers, trees
from containerd.client import COMMIT, LAYER, STAT, WRITE, Client, digest_of
from cutaway.pb import (
    content_pb2,
    events_pb2,
    image_events_pb2,
    images_pb2,
    leases_pb2,
    mount_pb2,
    snapshots_pb2,
)
from cutaway.pb.content_pb2 import WriteContentRequest as Request
from support.netns import NetNs
from support.peers import need
from support.process import wait_until
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

NotFound = grpc.StatusCode.NOT_FOUND
AlreadyExists = grpc.StatusCode.ALREADY_EXISTS
InvalidArgument = grpc.StatusCode.INVALID_ARGUMENT
FailedPrecondition = grpc.StatusCode.FAILED_PRECONDITION
OutOfRange = grpc.StatusCode.OUT_OF_RANGE
Unavailable = grpc.StatusCode.UNAVAILABLE

DATA = bytes(range(256)) * 20_000


@pytest.fixture(scope="module", params=["ours", "containerd"])
def daemon(request: pytest.FixtureRequest, session_base: Path, session_netns: NetNs) -> Iterator[Containerd]:
    need("ctr", "containerd")
    kind = OurContainerd if request.param == "ours" else RealContainerd
    with kind(session_base, session_netns, name=f"api-{request.param}") as running:
        yield running


@pytest.fixture
def client(daemon: Containerd, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client in a namespace of the test's own, under a lease, so that containerd collects nothing."""
    namespace = f"ns{abs(hash(request.node.nodeid)) % 10**9}"
    with Client.leased(daemon.address, namespace, "test") as leased:
        yield leased


def fails(code: grpc.StatusCode, text: str, function: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        function()
    assert (caught.value.code(), text in caught.value.details()) == (code, True), caught.value.details()


def test_a_blob_is_what_was_written(client: Client) -> None:
    digest = client.ingest(DATA, labels={"a": "b"})
    (info,) = client.blobs()
    assert (info.digest, info.size, dict(info.labels)) == (digest, len(DATA), {"a": "b"})
    assert client.read(digest) == DATA
    assert client.read(digest, 1000, 70_000) == DATA[1000:71_000]
    assert client.read(digest, len(DATA) - 5, 100) == DATA[-5:]
    assert client.read(digest, len(DATA)) == b""
    fails(OutOfRange, "read past object length", lambda: client.read(digest, len(DATA) + 1))
    fails(NotFound, "not found", lambda: client.read(digest_of(b"other")))
    fails(InvalidArgument, "invalid", lambda: client.read("nonsense"))


def test_writing_is_a_conversation(client: Client) -> None:
    digest = digest_of(b"hello world")
    answers = client.write(
        Request(action=STAT, ref="r", total=11, expected=digest),
        Request(action=STAT),
        Request(action=WRITE, data=b"hello "),
        Request(action=STAT),
        Request(action=WRITE, data=b"world", offset=6),
        Request(action=COMMIT, total=11, expected=digest, offset=11),
    )
    # containerd says its last word twice.
    assert [(one.action, one.offset) for one in answers[:6]] == [
        (0, 0),
        (0, 0),
        (1, 6),
        (0, 6),
        (1, 11),
        (2, 11),
    ]
    assert answers[0].digest == digest_of(b"")
    assert answers[3].digest == digest_of(b"hello ")
    assert (answers[1].total, answers[5].digest) == (11, digest)
    assert answers[0].started_at.seconds > 1_600_000_000


def test_a_write_goes_on_where_it_broke_off(client: Client) -> None:
    client.write(Request(action=WRITE, ref="r", total=11, data=b"hello "))
    status = client.call(content_pb2, "Content/Status", content_pb2.StatusRequest(ref="r")).status
    assert (status.ref, status.offset, status.total) == ("r", 6, 11)
    (listed,) = client.call(content_pb2, "Content/ListStatuses", content_pb2.ListStatusesRequest()).statuses
    assert listed.ref == "r"
    answers = client.write(
        Request(action=STAT, ref="r"),
        Request(action=WRITE, data=b"world", offset=6),
        Request(action=COMMIT, offset=11, expected=digest_of(b"hello world")),
    )
    assert answers[0].offset == 6
    assert client.read(digest_of(b"hello world")) == b"hello world"
    missing = content_pb2.StatusRequest(ref="r")
    fails(NotFound, "could not get status", lambda: client.call(content_pb2, "Content/Status", missing))


def test_a_write_from_the_start_begins_anew(client: Client) -> None:
    client.write(Request(action=WRITE, ref="r", data=b"wrong"))
    client.write(Request(action=WRITE, ref="r", data=b"right"), Request(action=COMMIT, offset=5))
    assert [info.digest for info in client.blobs()] == [digest_of(b"right")]


def test_bytes_must_fit_what_was_said_of_them(client: Client) -> None:
    def commit(ref: str, **said: object) -> Callable[[], object]:
        start = Request(action=WRITE, ref=ref, data=b"hello")
        return lambda: client.write(start, Request(action=COMMIT, offset=5, **said))  # type: ignore[arg-type]

    fails(FailedPrecondition, "unexpected commit digest", commit("a", expected=digest_of(b"other")))
    fails(FailedPrecondition, '"b" failed size validation: 5 != 6', commit("b", total=6))
    gap = Request(action=WRITE, offset=7, data=b"x")
    fails(
        OutOfRange,
        "write @7 must occur at current offset 5",
        lambda: client.write(Request(action=WRITE, ref="c", data=b"hello"), gap),
    )
    fails(InvalidArgument, "must have a reference", lambda: client.write(Request(action=STAT)))
    assert client.blobs() == []


def test_what_is_there_need_not_be_sent(client: Client) -> None:
    digest = client.ingest(b"hello")
    fails(AlreadyExists, digest, lambda: client.write(Request(action=STAT, ref="r", expected=digest)))
    fails(
        AlreadyExists,
        digest,
        lambda: client.write(Request(action=WRITE, ref="r", data=b"hello"), Request(action=COMMIT, offset=5)),
    )
    assert not client.call(content_pb2, "Content/ListStatuses", content_pb2.ListStatusesRequest()).statuses


def test_what_another_namespace_has_need_not_be_sent(daemon: Containerd, client: Client) -> None:
    digest = client.ingest(b"shared bytes")
    with Client(daemon.address, "other-namespace") as other:
        fails(NotFound, digest, lambda: other.read(digest))
        said = Request(action=STAT, ref="r", expected=digest, total=12)
        (answer, *_) = other.write(said, Request(action=COMMIT, expected=digest, total=12, offset=12))
        assert (answer.offset, answer.digest) == (12, digest)
        assert other.read(digest) == b"shared bytes"
        client.call(content_pb2, "Content/Delete", content_pb2.DeleteContentRequest(digest=digest))
        assert other.read(digest) == b"shared bytes"
        other.call(content_pb2, "Content/Delete", content_pb2.DeleteContentRequest(digest=digest))


def test_a_ref_has_one_writer(client: Client) -> None:
    requests: queue.Queue[Request | None] = queue.Queue()
    requests.put(Request(action=WRITE, ref="r", data=b"mine"))
    answers = client.converse(iter(requests.get, None))
    next(answers)
    fails(Unavailable, "ref", lambda: client.write(Request(action=STAT, ref="r")))
    requests.put(None)
    list(answers)
    assert client.write(Request(action=STAT, ref="r"))[0].offset == 4


def test_a_client_that_vanishes_gives_up_its_ref(daemon: Containerd, client: Client) -> None:
    call = client.call(content_pb2, "Content/Write", iter([Request(action=WRITE, ref="r", data=b"mine")]))
    next(call)
    call.cancel()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert client.write(Request(action=STAT, ref="r"))[0].offset == 4
        except grpc.RpcError as error:
            assert error.code() is Unavailable
            assert time.monotonic() < deadline
        else:
            break


def test_an_aborted_write_is_gone(client: Client) -> None:
    client.write(Request(action=WRITE, ref="r", data=b"x"))
    client.call(content_pb2, "Content/Abort", content_pb2.AbortRequest(ref="r"))
    assert client.write(Request(action=STAT, ref="r"))[0].offset == 0
    client.call(content_pb2, "Content/Abort", content_pb2.AbortRequest(ref="r"))
    again = content_pb2.AbortRequest(ref="r")
    fails(NotFound, "not found", lambda: client.call(content_pb2, "Content/Abort", again))


def test_a_write_is_aborted_under_its_writer(client: Client) -> None:
    requests: queue.Queue[Request | None] = queue.Queue()
    requests.put(Request(action=WRITE, ref="r", data=b"mine"))
    answers = client.converse(iter(requests.get, None))
    next(answers)
    client.call(content_pb2, "Content/Abort", content_pb2.AbortRequest(ref="r"))
    status = content_pb2.StatusRequest(ref="r")
    fails(NotFound, "not found", lambda: client.call(content_pb2, "Content/Status", status))
    fails(Unavailable, "ref", lambda: client.write(Request(action=STAT, ref="r")))
    requests.put(Request(action=WRITE, offset=4, data=b"!"))
    assert next(answers).offset == 5
    requests.put(Request(action=COMMIT))
    fails(grpc.StatusCode.UNKNOWN, "no such file or directory", lambda: list(answers))
    requests.put(None)
    assert client.blobs() == []
    assert client.write(Request(action=STAT, ref="r"))[0].offset == 0


def test_labels_change_by_mask(client: Client) -> None:
    digest = client.ingest(b"x", labels={"a": "1", "b": "2"})

    def update(paths: list[str], **labels: str) -> dict[str, str]:
        request = content_pb2.UpdateRequest(info=content_pb2.Info(digest=digest, labels=labels))
        request.update_mask.paths.extend(paths)
        return dict(client.call(content_pb2, "Content/Update", request).info.labels)

    assert update(["labels.a"], a="3", b="ignored") == {"a": "3", "b": "2"}
    assert update(["labels.com.example/x.y"], **{"com.example/x.y": "z"})["com.example/x.y"] == "z"
    assert update(["labels.a"]).get("a", "") == ""
    assert update(["labels"], only="one") == {"only": "one"}
    assert [info.digest for info in client.blobs("labels.only==one")] == [digest]
    assert client.blobs("labels.a") == []
    fails(InvalidArgument, 'cannot update "size" field', lambda: update(["size"]))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "+gzip": gzip.compress,
    "+zstd": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_layer_is_applied_and_its_diff_id_told(client: Client, suffix: str) -> None:
    layer = layers.base()
    digest = client.ingest(COMPRESSIONS[suffix](layer))
    mounts = client.prepare("extract")
    assert [(one.type, list(one.options)) for one in mounts] == [("bind", ["rw", "rbind"])]
    applied = client.apply(digest, mounts, f"application/vnd.oci.image.layer.v1.tar{suffix}")
    assert applied.digest == digest_of(layer)
    assert (applied.size, applied.media_type) == (len(layer), "application/vnd.oci.image.layer.v1.tar")
    assert (Path(mounts[0].source) / "etc/passwd").read_bytes() == b"root:x:0:0:\n"


def test_a_layer_that_is_not_there_or_is_none(client: Client) -> None:
    mounts = client.prepare("extract")
    fails(NotFound, "not found", lambda: client.apply(digest_of(b"missing"), mounts))
    digest = client.ingest(b"no tar file" * 1000)
    with pytest.raises(grpc.RpcError) as caught:
        client.apply(digest, mounts)
    assert f"failed to extract layer {digest}" in caught.value.details() or "tar" in caught.value.details()


def test_snapshots_stand_on_one_another(client: Client) -> None:
    client.prepare("a")
    client.commit("a", "base")
    (mount,) = client.prepare("b", "base")
    assert mount.type == mount.source == "overlay"
    assert [option.split("=")[0] for option in mount.options] == ["index", "workdir", "upperdir", "lowerdir"]
    fails(FailedPrecondition, "cannot remove snapshot with child", lambda: client.remove("base"))
    fails(AlreadyExists, 'snapshot "b"', lambda: client.prepare("b"))
    fails(NotFound, "parent snapshot none does not exist", lambda: client.prepare("c", "none"))
    fails(InvalidArgument, "is not committed snapshot", lambda: client.prepare("c", "b"))
    fails(NotFound, "snapshot none does not exist", lambda: client.commit("none", "x"))
    fails(AlreadyExists, "base", lambda: client.commit("b", "base"))
    client.remove("b")
    client.remove("base")
    fails(NotFound, "snapshot base does not exist", lambda: client.remove("base"))


def test_a_view_is_read_only(client: Client) -> None:
    client.prepare("a")
    client.commit("a", "base")
    (mount,) = client.view("v", "base")
    assert (mount.type, list(mount.options)) == ("bind", ["ro", "rbind"])
    fails(FailedPrecondition, "is not active", lambda: client.commit("v", "x"))


def test_usage_is_what_a_snapshot_adds(client: Client) -> None:
    (mount,) = client.prepare("a")
    (Path(mount.source) / "file").write_bytes(bytes(100_000))
    (Path(mount.source) / "link").hardlink_to(Path(mount.source) / "file")

    def usage(key: str) -> tuple[int, int]:
        request = snapshots_pb2.UsageRequest(snapshotter="overlayfs", key=key)
        answer = client.call(snapshots_pb2, "Snapshots/Usage", request)
        return answer.size, answer.inodes

    size, inodes = usage("a")
    assert 100_000 <= size < 130_000
    assert inodes == 2
    client.commit("a", "base")
    assert usage("base") == (size, inodes)


def test_native_snapshots_are_copies(client: Client) -> None:
    digest = client.ingest(layers.base())
    client.apply(digest, client.prepare("a", snapshotter="native"))
    client.commit("a", "base", "native")
    (mount,) = client.prepare("b", "base", "native")
    assert (mount.type, list(mount.options)) == ("bind", ["rbind", "rw"]) or list(mount.options) == [
        "rw",
        "rbind",
    ]
    client.apply(client.ingest(layers.changes()), [mount])
    root = Path(mount.source)
    assert not (root / "gone").exists()
    assert {one.name for one in (root / "opaque").iterdir()} == {"above"}
    assert (root / "replaced").read_bytes() == b"now a file"
    assert (root / "etc/passwd").read_bytes() == b"root:x:0:0:\n"


def upper(mounts: list[mount_pb2.Mount]) -> Path:
    return Path(
        next(one for one in mounts[0].options if one.startswith("upperdir=")).removeprefix("upperdir=")
    )


@pytest.mark.parametrize("media_type", ["", LAYER, f"{LAYER}+gzip"])
def test_what_changed_becomes_a_layer_again(client: Client, media_type: str) -> None:
    client.apply(client.ingest(layers.base()), client.prepare("a"))
    client.commit("a", "base")
    changed = client.prepare("b", "base")
    client.apply(client.ingest(layers.changes()), changed)
    below = client.view("below", "base")
    made = client.diff(below, changed, media_type)
    assert made.media_type == (media_type or f"{LAYER}+gzip")
    (info,) = [one for one in client.blobs() if one.digest == made.digest]
    assert info.size == made.size
    again = client.prepare("c", "base")
    applied = client.apply(made.digest, again, made.media_type)
    label = info.labels.get("containerd.io/uncompressed")
    assert label == (None if media_type == LAYER else applied.digest)
    assert seen(upper(again)) == seen(upper(changed))
    whole = client.prepare("d")
    client.apply(client.diff([], changed, media_type).digest, whole, made.media_type)
    root = Path(whole[0].source)
    assert not (root / "gone").exists()
    assert (root / "usr/bin/through-a-link").read_bytes() == b"5"
    assert (root / "usr/bin/su").stat().st_ino != (root / "usr/bin/sudo").stat().st_ino
    assert {one.name for one in (root / "opaque").iterdir()} == {"above"}


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """What an upper directory shows, without times, which layers made from trees round to seconds.

    An opaque directory may come back as whiteouts of what it hid.
    """
    found: dict[str, tuple[object, ...]] = {}
    for name, what in trees.describe(root).items():
        mode, uid, gid, device, _, _, _, content = what
        if name != "opaque/below":
            found[name] = (mode, uid, gid, device, content)
    return found


def test_a_layer_made_twice_is_the_same(client: Client) -> None:
    mounts = client.prepare("a")
    client.apply(client.ingest(layers.base()), mounts)
    assert client.diff([], mounts) == client.diff([], mounts)


def test_garbage_is_collected_when_asked_for(daemon: Containerd, client: Client) -> None:
    leased = client.ingest(b"leased")
    with Client(daemon.address, client.metadata[0][1]) as plain:
        child = plain.ingest(b"child")
        parent = plain.ingest(b"parent", labels={"containerd.io/gc.ref.content.0": child})
        plain.image("image", parent)
        plain.ingest(b"nobody's")
        plain.prepare("nobody's")
        plain.collect()
        assert {info.digest for info in plain.blobs()} == {leased, child, parent}
        found = plain.call(
            snapshots_pb2, "Snapshots/List", snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
        )
        assert [info for answer in found for info in answer.info] == []
        plain.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="image", sync=True))
        assert [info.digest for info in plain.blobs()] == [leased]
        plain.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id="test", sync=True))
        assert plain.blobs() == []


def test_garbage_is_collected_in_the_background(daemon: Containerd, client: Client) -> None:
    leased = client.ingest(b"leased")
    with Client(daemon.address, client.metadata[0][1]) as plain:
        plain.image("image", named := client.ingest(b"named"))
        resource = leases_pb2.Resource(id=named, type="content")
        request = leases_pb2.DeleteResourceRequest(id="test", resource=resource)
        plain.call(leases_pb2, "Leases/DeleteResource", request)
        plain.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="image"))
        wait_until(lambda: [info.digest for info in plain.blobs()] == [leased], "the blob is collected")
        client.prepare("held")
        plain.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id="test"))
        wait_until(lambda: plain.blobs() == [], "what the lease held is collected")


def test_changes_are_told_as_events(daemon: Containerd, client: Client) -> None:
    namespace = client.metadata[0][1]
    request = events_pb2.SubscribeRequest(filters=[f"namespace=={namespace},topic~=/^.(images|snapshot)./"])
    stream = client.call(events_pb2, "Events/Subscribe", request)
    with ThreadPoolExecutor(1) as pool:
        # Nothing tells that a subscription has begun: the daemons answer with the first event.
        first, count = pool.submit(next, stream), 0
        while not wait([first], timeout=0.05).done:
            client.image(f"probe-{count}", digest_of(b"x"))
            count += 1
    assert first.result().topic == "/images/create"
    client.prepare("key")
    event = next(stream)
    while event.topic == "/images/create":
        assert image_events_pb2.ImageCreate.FromString(event.event.value).name.startswith("probe-")
        event = next(stream)
    assert (event.topic, event.namespace) == ("/snapshot/prepare", namespace)
    assert event.event.type_url == "containerd.events.SnapshotPrepare"
    stream.cancel()
