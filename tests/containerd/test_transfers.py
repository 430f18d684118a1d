"""Transfers that stay on the machine: archives in and out over streams, and tags.

Only on our service: Debian's containerd is older than this API. What containerd 2.3 does in each case was
compared by hand (docs/seams/containerd.md).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from containerd.archives import BAD, IMAGE, hostile, index_archive, read_tar, with_manifest
from containerd.client import Client, digest_of
from containerd.transfers import (
    Download,
    Stream,
    Upload,
    export_archive,
    images_of,
    import_archive,
    nothing_is_left,
    packed,
    prefix,
    refused,
    snapshots_of,
    transfer,
)
from cutaway.pb import images_pb2, introspection_pb2, mount_pb2, transfer_pb2
from cutaway.pb import transfer_types_pb2 as types
from cutaway.pb.platform_pb2 import Platform
from support.images import OCI_INDEX, Image, Layer, tar, to_json
from support.netns import NetNs
from support.stack import OurContainerd

pytestmark = pytest.mark.root

Code = grpc.StatusCode
OVERLAY = types.UnpackConfiguration(platform=Platform(os="linux"), snapshotter="overlayfs")
ANY_NAME = prefix("import", allow_overwrite=True)


@pytest.fixture(scope="module")
def daemon(session_base: Path, session_netns: NetNs) -> Iterator[OurContainerd]:
    with OurContainerd(session_base, session_netns, name="transfer") as running:
        yield running


@pytest.fixture
def client(daemon: OurContainerd, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(daemon.address, f"ns{abs(hash(request.node.nodeid)) % 10**9}") as made:
        yield made


def test_an_image_layout_is_imported_and_unpacked(client: Client) -> None:
    store = types.ImageStore(
        labels={"a": "b"}, extra_references=[ANY_NAME], unpacks=[OVERLAY], name="index:all"
    )
    told = import_archive(client, IMAGE.oci_archive("docker.io/library/x:1"), store)
    assert [one.event for one in told] == ["Importing", "saved", "saved", "Completed import"]
    found = images_of(client)
    assert set(found) == {"index:all", "docker.io/library/x:1"}
    manifest = IMAGE.manifest()
    image = found["docker.io/library/x:1"]
    assert (image.target.digest, image.target.size) == (manifest.digest, len(manifest.data))
    assert image.labels["containerd.io/gc.bref.image"] == "index:all"
    assert dict(found["index:all"].labels) == {"a": "b"}
    client.collect()
    blobs = {info.digest: dict(info.labels) for info in client.blobs()}
    config, *layers = IMAGE.blobs()
    for layer, blob in zip(IMAGE.layers, layers, strict=True):
        assert client.read(blob.digest) == layer.compressed
        assert blobs[blob.digest]["containerd.io/uncompressed"] == layer.diff_id
    top = blobs[config.digest]["containerd.io/gc.ref.snapshot.overlayfs"]
    assert snapshots_of(client) == {IMAGE.layers[0].diff_id, top}
    (mounted,) = client.view("look", top)
    assert isinstance(mounted, mount_pb2.Mount)
    lower = mounted.options[-1].partition("lowerdir=")[2].partition(":")[0]
    assert (Path(lower) / "b").read_bytes() == read_tar(IMAGE.layers[1].tar)["b"]


def test_what_expires_goes_with_the_image_that_keeps_it(client: Client) -> None:
    store = types.ImageStore(name="index:all", extra_references=[ANY_NAME])
    import_archive(client, IMAGE.oci_archive("x:1"), store)
    client.collect()
    assert set(images_of(client)) == {"index:all", "x:1"}
    client.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="index:all", sync=True))
    nothing_is_left(client)


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_an_archive_of_docker_is_imported(client: Client, compression: str) -> None:
    archive = IMAGE.docker_archive("busybox:one", "example.org/two:2")
    archive = gzip.compress(archive) if compression else archive
    import_archive(client, archive, types.ImageStore(extra_references=[ANY_NAME], unpacks=[OVERLAY]))
    found = images_of(client)
    assert set(found) == {"docker.io/library/busybox:one", "example.org/two:2"}
    manifest = json.loads(client.read(found["example.org/two:2"].target.digest))
    assert manifest["config"]["digest"] == IMAGE.id
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.diff_id for layer in IMAGE.layers]
    assert len(snapshots_of(client)) == 2


def test_layers_are_compressed_on_request_and_known_ones_used(client: Client) -> None:
    store = types.ImageStore(extra_references=[ANY_NAME])
    import_archive(client, IMAGE.docker_archive("x:1"), store, force_compress=True)
    manifest = json.loads(client.read(images_of(client)["docker.io/library/x:1"].target.digest))
    for layer, known in zip(manifest["layers"], IMAGE.layers, strict=True):
        assert layer["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
        assert gzip.decompress(client.read(layer["digest"])) == known.tar
    # The same layers, plain, and said to be so: those that are there are taken.
    import_archive(client, IMAGE.docker_archive("y:1"), store)
    again = json.loads(client.read(images_of(client)["docker.io/library/y:1"].target.digest))
    assert again == manifest


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"here:1"}),
        ({"add_digest": True}, {"here:1", "here@{digest}"}),
        ({"add_digest": True, "skip_named_digest": True}, {"here:1"}),
    ],
)
def test_a_tag_alone_gets_the_prefix(client: Client, options: dict[str, bool], names: set[str]) -> None:
    import_archive(
        client, IMAGE.oci_archive("1"), types.ImageStore(extra_references=[prefix("here", **options)])
    )
    # The index of the archive has no name of its own; with `add_digest` its digest is one.
    found = {name for name, image in images_of(client).items() if image.target.media_type != OCI_INDEX}
    assert found == {name.format(digest=IMAGE.manifest().digest) for name in names}


def test_a_name_beside_the_prefix_is_not_given(client: Client) -> None:
    store = types.ImageStore(extra_references=[prefix("here")])
    told = import_archive(client, IMAGE.oci_archive("there:1"), store)
    assert images_of(client) == {}
    assert "saved" not in [one.event for one in told]


def test_what_is_exported_can_be_imported(client: Client) -> None:
    import_archive(
        client, IMAGE.oci_archive("docker.io/library/x:1"), types.ImageStore(extra_references=[ANY_NAME])
    )
    source = types.ImageStore(name="docker.io/library/x:1")
    archive = export_archive(client, source)
    assert archive == export_archive(client, source), "the same image makes the same bytes"
    members = read_tar(archive)
    expected = [f"blobs/{blob.digest.replace(':', '/')}" for blob in (IMAGE.manifest(), *IMAGE.blobs())]
    assert sorted(members) == sorted(
        ["blobs", "blobs/sha256", "index.json", "manifest.json", "oci-layout", *expected]
    )
    (entry,) = json.loads(members["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    }
    (item,) = json.loads(members["manifest.json"])
    assert item["RepoTags"] == ["x:1"]
    assert members[item["Config"]] == IMAGE.config
    with Client(client.address, "elsewhere") as other:
        import_archive(other, archive, types.ImageStore(extra_references=[ANY_NAME]))
        assert images_of(other)["docker.io/library/x:1"].target.digest == IMAGE.manifest().digest
    bare = read_tar(export_archive(client, source, skip_compatibility_manifest=True))
    assert "manifest.json" not in bare


def test_an_index_is_imported_and_exported_by_platform(client: Client) -> None:
    other = Image((Layer(tar({"c": b"c"})),), {})
    archive = index_archive({"amd64": IMAGE, "s390x": other}, "all:1")
    only = types.ImageStore(
        extra_references=[ANY_NAME], platforms=[Platform(os="linux", architecture="s390x")]
    )
    import_archive(client, archive, only)
    client.collect()
    there = {info.digest for info in client.blobs()}
    assert other.manifest().digest in there
    assert IMAGE.manifest().digest not in there
    everything = types.ImageStore(name="all:1")
    refused(Code.NOT_FOUND, "not found", lambda: export_archive(client, everything, all_platforms=True))
    wanted = [Platform(os="linux", architecture="s390x")]
    members = read_tar(export_archive(client, everything, platforms=wanted))
    assert json.loads(members["manifest.json"])[0]["Config"].endswith(other.id.removeprefix("sha256:"))
    none = [Platform(os="linux", architecture="riscv64")]
    refused(
        Code.NOT_FOUND,
        "no manifest found for platform",
        lambda: export_archive(client, everything, platforms=none),
    )
    filtered = types.ImageStore(extra_references=[ANY_NAME], platforms=none)
    refused(Code.UNKNOWN, "image might be filtered out", lambda: import_archive(client, archive, filtered))


def test_an_image_gets_another_name(client: Client) -> None:
    import_archive(client, IMAGE.oci_archive("x:1"), types.ImageStore(extra_references=[ANY_NAME]))
    to = types.ImageStore(name="y:2", labels={"k": "v"})
    for _ in range(2):  # a name that is there is changed
        transfer(client, types.ImageStore(name="x:1"), to)
    found = images_of(client)
    assert (found["y:2"].target, dict(found["y:2"].labels)) == (found["x:1"].target, {"k": "v"})
    missing = types.ImageStore(name="z")
    refused(Code.NOT_FOUND, 'image "z": not found', lambda: transfer(client, missing, to))


def test_pairs_that_make_no_sense_are_refused(client: Client) -> None:
    store = types.ImageStore(name="x:1")
    export = types.ImageExportStream(stream="none")
    text = (
        "method Transfer not implemented for containerd.types.transfer.ImageExportStream "
        "to containerd.types.transfer.ImageStore"
    )
    refused(Code.UNIMPLEMENTED, text, lambda: transfer(client, export, store))
    refused(Code.UNIMPLEMENTED, "containerd.types.Mount", lambda: transfer(client, mount_pb2.Mount(), store))
    request = transfer_pb2.TransferRequest(source=packed(store), destination=packed(store))
    request.source.type_url = "example.Nothing"
    refused(
        Code.UNKNOWN,
        "type with url example.Nothing: not found",
        lambda: client.call(transfer_pb2, "Transfer/Transfer", request),
    )


def test_streams_that_are_not_there_are_refused(client: Client) -> None:
    store = types.ImageStore(name="x:1")
    imported = types.ImageImportStream(stream="none")
    refused(Code.NOT_FOUND, "not found", lambda: transfer(client, imported, store))
    options = transfer_pb2.TransferOptions(progress_stream="none")
    request = transfer_pb2.TransferRequest(source=packed(store), destination=packed(store), options=options)
    refused(Code.NOT_FOUND, "not found", lambda: client.call(transfer_pb2, "Transfer/Transfer", request))
    held = Stream(client, "taken")
    refused(Code.ALREADY_EXISTS, "already exists", lambda: Stream(client, "taken"))
    held.cancel()


def test_bytes_go_there_and_back_within_the_window(client: Client) -> None:
    """containerd's own way to try its streams: what is imported is exported again."""
    data = bytes(range(256)) * 800
    up, down = Stream(client), Stream(client)
    download = Download(down, step=1000)
    threads = [up.in_background(Upload(up, data).run), down.in_background(download.run)]
    transfer(client, types.ImageImportStream(stream=up.name), types.ImageExportStream(stream=down.name))
    for thread in threads:
        thread.join(10)
    assert bytes(download.data) == data


def test_a_client_that_leaves_in_between_leaves_nothing(client: Client) -> None:
    archive = BAD.oci_archive("x:1")
    store = types.ImageStore(extra_references=[ANY_NAME], unpacks=[OVERLAY])
    with pytest.raises(grpc.RpcError) as caught:
        import_archive(client, archive, store, cut=2 * len(archive) // 3)
    # gRPC does not always tell a stream that was cancelled from one that has ended.
    assert (caught.value.code(), caught.value.details()[:19]) in (
        (Code.CANCELLED, "stream was cancelle"),
        (Code.INVALID_ARGUMENT, "invalid tar archive"),
    )
    nothing_is_left(client)
    # And in the other direction: the export ends when nobody reads it any more.
    import_archive(client, IMAGE.oci_archive("x:1"), types.ImageStore(extra_references=[ANY_NAME]))
    stream = Stream(client)
    stream.send(types.WindowUpdate(update=10))

    def read_a_little() -> None:
        next(iter(stream))
        stream.cancel()

    reading = stream.in_background(read_a_little)
    exported = types.ImageExportStream(stream=stream.name)
    refused(Code.CANCELLED, "stream", lambda: transfer(client, types.ImageStore(name="x:1"), exported))
    reading.join(10)


@pytest.mark.parametrize("case", list(hostile()))
def test_of_a_bad_archive_nothing_stays(client: Client, case: str) -> None:
    archive, code, text = hostile()[case]
    store = types.ImageStore(name="all", extra_references=[ANY_NAME], unpacks=[OVERLAY])
    refused(code, text, lambda: import_archive(client, archive, store))
    nothing_is_left(client)


def test_layers_that_are_not_what_is_said_are_not_unpacked(client: Client) -> None:
    lying = Image((Layer(tar({"a": b"a"})),), {})
    config = json.loads(lying.config)
    config["rootfs"]["diff_ids"] = [digest_of(b"other")]
    files = lying.layout_files("x:1")
    manifest = json.loads(lying.manifest().data)
    raw = to_json(config)
    manifest["config"] |= {"digest": digest_of(raw), "size": len(raw)}
    files[f"blobs/sha256/{digest_of(raw)[7:]}"] = raw
    archive = with_manifest(files, manifest)
    store = types.ImageStore(extra_references=[ANY_NAME], unpacks=[OVERLAY])
    refused(Code.DATA_LOSS, "wrong diff id", lambda: import_archive(client, archive, store))
    nothing_is_left(client)


def test_the_services_are_in_the_list_of_plugins(client: Client) -> None:
    found = client.call(introspection_pb2, "Introspection/Plugins", introspection_pb2.PluginsRequest())
    assert {
        ("io.containerd.transfer.v1", "local"),
        ("io.containerd.streaming.v1", "manager"),
        ("io.containerd.grpc.v1", "transfer"),
        ("io.containerd.grpc.v1", "streaming"),
    } <= {(one.type, one.id) for one in found.plugins}


def test_open_streams_do_not_hold_up_the_daemon(session_base: Path, session_netns: NetNs) -> None:
    with OurContainerd(session_base, session_netns, name="transfer-stop") as daemon:
        with Client(daemon.address) as client:
            stream = Stream(client)
            ended: list[bool] = []
            reading = stream.in_background(lambda: ended.append(list(stream) == []))
            daemon.stop()
            reading.join(10)
            assert ended == [True], "the stream ends in good order, not with the connection"
