"""Transfers from and to a real registry, by our service (Debian's containerd is older than this API)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from containerd.archives import BAD, IMAGE
from containerd.client import Client
from containerd.transfers import (
    Stream,
    images_of,
    import_archive,
    nothing_is_left,
    packed,
    prefix,
    refused,
    snapshots_of,
    transfer,
)
from cutaway.pb import images_pb2, leases_pb2, transfer_pb2
from cutaway.pb import transfer_types_pb2 as types
from cutaway.pb.platform_pb2 import Platform
from support.images import Blob, Image, Layer, has_blob, push_index, tar
from support.netns import NetNs
from support.peers import need
from support.process import wait_until
from support.stack import GuardedRegistry, OurContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

Code = grpc.StatusCode
OTHER = Image((Layer(tar({"c": b"c"})),), {})
AMD64, S390X = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="s390x")
OVERLAY = types.UnpackConfiguration(platform=Platform(os="linux"), snapshotter="overlayfs")


@pytest.fixture(scope="module")
def registry(session_base: Path, session_netns: NetNs) -> Iterator[RealRegistry]:
    need("docker-registry")
    with RealRegistry(session_base, session_netns, name="transfer-reg") as running:
        running.push(IMAGE, "one", "1")
        session_netns.call(
            push_index, running.host, "many", "1", {"linux/amd64": IMAGE, "linux/s390x": OTHER}
        )
        yield running


@pytest.fixture(scope="module")
def guarded(session_base: Path, session_netns: NetNs) -> Iterator[GuardedRegistry]:
    need("docker-registry")
    with GuardedRegistry(session_base, session_netns, name="transfer-guard") as running:
        yield running


@pytest.fixture(scope="module")
def daemon(session_base: Path, session_netns: NetNs) -> Iterator[OurContainerd]:
    with OurContainerd(session_base, session_netns, name="transfer-net") as running:
        yield running


@pytest.fixture
def client(daemon: OurContainerd, request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(daemon.address, f"ns{abs(hash(request.node.nodeid)) % 10**9}") as made:
        yield made


def source(registry: RealRegistry, name: str, **resolver: object) -> types.OCIRegistry:
    return types.OCIRegistry(
        reference=f"{registry.host}/{name}",
        resolver=types.RegistryResolver(**resolver),  # type: ignore[arg-type]
    )


def test_an_image_is_pulled_and_unpacked(client: Client, registry: RealRegistry) -> None:
    end = source(registry, "one:1")
    text = f"OCI Registry ({end.reference})"
    for attempt in ("complete", "already exists"):
        store = types.ImageStore(name="x:1", labels={"k": "v"}, unpacks=[OVERLAY])
        told = transfer(client, end, store)
        events = [one.event for one in told]
        assert events[:3] == [f"Resolving from {text}", f"Pulling from {text}", "fetching image content"]
        assert events[-2:] == ["saved", f"Completed pull from {text}"]
        assert events.count(attempt) == 4, "manifest, configuration and two layers"
        assert events.count("extracted") == (2 if attempt == "complete" else 0)
    manifest = IMAGE.manifest()
    names = {one.desc.digest: (one.name, list(one.parents)) for one in told if one.event == attempt}
    assert names[manifest.digest] == (f"manifest-{manifest.digest}", [end.reference])
    assert names[IMAGE.id] == (f"config-{IMAGE.id}", [f"manifest-{manifest.digest}"])
    client.collect()
    image = images_of(client)["x:1"]
    assert (image.target.digest, dict(image.labels)) == (manifest.digest, {"k": "v"})
    labels = {info.digest: dict(info.labels) for info in client.blobs()}
    for blob in (manifest, *IMAGE.blobs()):
        assert client.read(blob.digest) == blob.data
        assert labels[blob.digest]["containerd.io/distribution.source.127.0.0.1"] == "one"
    assert labels[IMAGE.id]["containerd.io/gc.ref.snapshot.overlayfs"] in snapshots_of(client)
    client.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="x:1", sync=True))
    nothing_is_left(client)


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ({"platforms": [S390X]}, {"other", "layer of other"}),
        ({"platforms": [S390X], "all_metadata": True}, {"one", "config", "other", "layer of other"}),
        ({"platforms": [S390X, AMD64], "manifest_limit": 1}, {"other", "layer of other"}),
        ({}, {"one", "config", "layer", "other", "layer of other"}),
    ],
)
def test_of_an_index_what_is_wanted_is_pulled(
    client: Client, registry: RealRegistry, wanted: dict[str, object], there: set[str]
) -> None:
    store = types.ImageStore(name="x:1", **wanted)  # type: ignore[arg-type]
    transfer(client, source(registry, "many:1"), store)
    client.collect()
    names = {
        IMAGE.manifest().digest: "one",
        IMAGE.id: "config",
        IMAGE.blobs()[1].digest: "layer",
        OTHER.manifest().digest: "other",
        OTHER.blobs()[1].digest: "layer of other",
    }
    assert {names[info.digest] for info in client.blobs() if info.digest in names} == there


def test_what_the_registry_has_not_is_refused(client: Client, registry: RealRegistry) -> None:
    store = types.ImageStore(name="x:1")
    missing = source(registry, "none:1")
    text = f"failed to resolve image: {missing.reference}: not found"
    refused(Code.NOT_FOUND, text, lambda: transfer(client, missing, store))
    no_tag = source(registry, "one")
    refused(Code.INVALID_ARGUMENT, "object required", lambda: transfer(client, no_tag, store))
    limited = types.ImageStore(name="x:1", platforms=[Platform(os="plan9")], manifest_limit=1)
    many = source(registry, "many:1")
    refused(Code.NOT_FOUND, "no match for platform", lambda: transfer(client, many, limited))
    with_headers = source(registry, "one:1", headers={"a": "b"})
    refused(Code.UNIMPLEMENTED, "headers", lambda: transfer(client, with_headers, store))
    nowhere = types.OCIRegistry(reference="127.0.0.1:1/one:1")
    refused(Code.UNAVAILABLE, "connection refused", lambda: transfer(client, nowhere, store))
    nothing_is_left(client)


def test_of_a_layer_that_is_damaged_nothing_stays(client: Client, registry: RealRegistry) -> None:
    registry.push(BAD, "bad", "1")
    damaged = BAD.blobs()[2]
    (file,) = registry.folder.rglob(f"{damaged.digest[7:]}/data")
    file.write_bytes(bytes(len(damaged.data)))
    store = types.ImageStore(name="x:1", unpacks=[OVERLAY])
    end = source(registry, "bad:1")
    refused(Code.DATA_LOSS, damaged.digest, lambda: transfer(client, end, store))
    nothing_is_left(client)


def test_a_pull_that_is_cancelled_ends(client: Client, session_netns: NetNs) -> None:
    """By a registry that takes the connection and says nothing."""
    with session_netns.call(socket.create_server, ("127.0.0.1", 0)) as silent:
        end = types.OCIRegistry(reference=f"127.0.0.1:{silent.getsockname()[1]}/x:1")
        request = transfer_pb2.TransferRequest(
            source=packed(end), destination=packed(types.ImageStore(name="x"))
        )
        method = client.method(transfer_pb2, "Transfer/Transfer")
        call = method.future(request, metadata=client.metadata)
        silent.settimeout(10)
        with silent.accept()[0]:
            assert len(leases_of(client)) == 1
            call.cancel()
            wait_until(lambda: not leases_of(client), "the transfer's lease goes with it")
    nothing_is_left(client)


def leases_of(client: Client) -> list[leases_pb2.Lease]:
    return list(client.call(leases_pb2, "Leases/List", leases_pb2.ListRequest()).leases)


class Keeper:
    """Answers what the service asks for on a stream for credentials."""

    def __init__(self, client: Client, answer: types.AuthResponse) -> None:
        self.stream = Stream(client)
        self.asked: list[types.AuthRequest] = []
        self._answer = answer
        self.stream.in_background(self._run)

    def _run(self) -> None:
        for message in self.stream:
            self.asked.append(types.AuthRequest.FromString(message.value))
            self.stream.send(self._answer)
        self.stream.end()


def credentials(password: str) -> types.AuthResponse:
    return types.AuthResponse(authType=types.CREDENTIALS, username=GuardedRegistry.user, secret=password)


def test_credentials_are_asked_for_on_a_stream(client: Client, guarded: GuardedRegistry) -> None:
    transfer_in = types.ImageStore(name="x:1")
    keeper = Keeper(client, credentials(guarded.password))
    fill(client, "y:1")
    transfer(client, types.ImageStore(name="y:1"), source(guarded, "in:1", auth_stream=keeper.stream.name))
    end = source(guarded, "in:1")
    assert [(one.host, one.reference) for one in keeper.asked] == [(guarded.host, end.reference)]
    refused(Code.UNKNOWN, "no basic auth credentials", lambda: transfer(client, end, transfer_in))
    wrong = Keeper(client, credentials("wrong"))
    barred = source(guarded, "in:1", auth_stream=wrong.stream.name)
    refused(Code.UNAUTHENTICATED, "authentication required", lambda: transfer(client, barred, transfer_in))
    header = Keeper(client, types.AuthResponse(authType=types.HEADER, secret="Basic YW5uOm9wZW4gc2VzYW1l"))
    transfer(client, source(guarded, "in:1", auth_stream=header.stream.name), transfer_in)
    assert images_of(client)["x:1"].target.digest == IMAGE.manifest().digest


def fill(client: Client, name: str) -> None:
    """Bring in an image without a registry."""
    store = types.ImageStore(extra_references=[prefix("import", allow_overwrite=True)])
    import_archive(client, IMAGE.oci_archive(name), store)


def test_an_image_is_pushed(client: Client, registry: RealRegistry, session_netns: NetNs) -> None:
    fill(client, "x:1")
    end = source(registry, "pushed:2")
    told = transfer(client, types.ImageStore(name="x:1"), end)
    events = [one.event for one in told]
    assert events[:2] == [f"Pushing to OCI Registry ({end.reference})", "pushing content"]
    assert events[-2:] == ["pushed content", f"Completed push to OCI Registry ({end.reference})"]
    assert events.count("complete") == 4
    for blob in IMAGE.blobs():
        assert session_netns.call(has_blob, f"http://{registry.host}/v2/pushed", blob)
    again = transfer(client, types.ImageStore(name="x:1"), source(registry, "pushed:3"))
    assert [one.event for one in again].count("already exists") == 3
    transfer(client, end, types.ImageStore(name="back:1"))
    assert images_of(client)["back:1"].target.digest == IMAGE.manifest().digest
    gone = types.ImageStore(name="gone:1")
    refused(Code.NOT_FOUND, 'image "gone:1": not found', lambda: transfer(client, gone, end))


def test_an_index_is_pushed_whole_or_not_at_all(
    client: Client, registry: RealRegistry, session_netns: NetNs
) -> None:
    transfer(client, source(registry, "many:1"), types.ImageStore(name="all:1"))
    transfer(client, types.ImageStore(name="all:1"), source(registry, "copy:1"))
    transfer(client, source(registry, "copy:1"), types.ImageStore(name="copy:1"))
    assert images_of(client)["copy:1"].target == images_of(client)["all:1"].target
    with Client(client.address, f"{client.metadata[0][1]}-part") as other:
        part = types.ImageStore(name="part:1", platforms=[S390X])
        transfer(other, source(registry, "many:1"), part)
        missing = source(registry, "part:1")
        refused(
            Code.NOT_FOUND, "not found", lambda: transfer(other, types.ImageStore(name="part:1"), missing)
        )
    assert not session_netns.call(has_blob, f"http://{registry.host}/v2/part", Blob("", OTHER.config))


def test_registries_are_found_by_hosts_toml(client: Client, registry: RealRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "example.test_5000_"
    folder.mkdir()
    file = folder / "hosts.toml"
    dead = '[host."http://127.0.0.1:1"]\ncapabilities = ["pull", "resolve"]\n'
    file.write_text(f'server = "http://{registry.host}"\n{dead}')
    end = types.OCIRegistry(
        reference="example.test:5000/one:1", resolver=types.RegistryResolver(host_dir=str(tmp_path))
    )
    transfer(client, end, types.ImageStore(name="x:1"))
    assert images_of(client)["x:1"].target.digest == IMAGE.manifest().digest
    to = types.OCIRegistry(reference="example.test:5000/mirrored:1", resolver=end.resolver)
    transfer(client, types.ImageStore(name="x:1"), to)  # not to the mirror
    for text, code, what in (
        ("[", Code.INVALID_ARGUMENT, "hosts.toml"),
        ('ca = "x.crt"', Code.UNIMPLEMENTED, "ca is not supported"),
        ('capabilities = ["fly"]', Code.INVALID_ARGUMENT, "fly"),
        ('capabilities = ["push"]', Code.INVALID_ARGUMENT, "no host for this"),
        ('server = "ftp://x"', Code.INVALID_ARGUMENT, "no registry's URL"),
    ):
        file.write_text(text)
        refused(code, what, lambda: transfer(client, end, types.ImageStore(name="y:1")))
    assert "y:1" not in images_of(client)
