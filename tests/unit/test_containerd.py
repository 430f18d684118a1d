"""The daemon's plumbing: errors, names, settings, the bus, and gRPC over a socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

from cutaway import errors
from cutaway.containerd import bus as buses
from cutaway.containerd import config, main, names, server
from cutaway.containerd.bus import Bus
from cutaway.containerd.locks import RootLock, clear_socket
from cutaway.containerd.server import Call, Service
from cutaway.containerd.services.errors import CODES, as_expected, code_of
from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted, Unknown
from cutaway.pb import image_events_pb2, images_pb2, version_pb2
from cutaway.pb.service import methods
from cutaway.trace import spans
from cutaway.trace.context import SpanContext
from cutaway.trace.spans import Span


def test_every_error_has_a_status_of_its_own() -> None:
    assert set(CODES) == set(errors.all_classes())
    assert len(set(CODES.values())) == len(CODES)
    assert code_of(NotFound("x")) is grpc.StatusCode.NOT_FOUND


def test_what_the_system_refuses_is_put_in_words() -> None:
    full = as_expected(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data"))
    assert isinstance(full, ResourceExhausted)
    assert str(full) == "No space left on device /data"
    assert code_of(OSError(errno.EIO, "x")) is grpc.StatusCode.UNKNOWN
    assert isinstance(as_expected(KeyError("x")), Unknown)


@pytest.mark.parametrize("name", ["moby", "a", "plugins.moby", "a-b_c.d", "x" * 76])
def test_names_that_may_be(name: str) -> None:
    names.validate(name)


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a-", "a..b", "a b", "x" * 77, "a\n", "\u00e4"])
def test_names_that_may_not_be(name: str) -> None:
    with pytest.raises(InvalidArgument):
        names.validate(name)


@pytest.mark.parametrize(
    "digest",
    ["", "sha256", "sha256:", "sha256:abc", "sha256:" + "g" * 64, "md5:" + "a" * 32, "sha256:" + "A" * 64,
     "../../x:" + "a" * 64, "sha256:" + "a" * 63 + "\n", "sha256:" + "a" * 62 + "/."],
)  # fmt: skip
def test_digests_that_may_not_be(digest: str) -> None:
    with pytest.raises(InvalidArgument):
        names.validate_digest(digest)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'root = "/r"\nstate = "/s"\n[grpc]\naddress = "/a/sock"\n[debug]\nlevel = "debug"\n[plugins.x]\n'
    )
    found = config.load(["--config", str(file), "--root", "/other", "--no-zygote"])
    assert (str(found.root), str(found.state), found.address) == ("/other", "/s", "/a/sock")
    assert (found.ttrpc_address, found.debug, found.zygote) == ("/a/sock.ttrpc", True, False)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        config.load(["--config", str(tmp_path / "none")])
    (tmp_path / "bad").write_text("root = [")
    with pytest.raises(InvalidArgument, match="bad"):
        config.load(["--config", str(tmp_path / "bad")])
    (tmp_path / "typed").write_text("root = 5")
    with pytest.raises(InvalidArgument, match="root must be a string"):
        config.load(["--config", str(tmp_path / "typed")])
    with pytest.raises(InvalidArgument, match="longer than 107"):
        config.load(["--address", "/" + "x" * 200])


def test_the_program_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--config", str(tmp_path / "none")]) == 1
    output = capsys.readouterr()
    assert output.err == f"cutaway-containerd: config file {tmp_path}/none does not exist\n"
    assert output.out == ""


def test_a_root_belongs_to_one_daemon(tmp_path: Path) -> None:
    lock = RootLock(tmp_path)
    with pytest.raises(FailedPrecondition, match=rf"\(pid {os.getpid()}\) uses {tmp_path}"):
        RootLock(tmp_path)
    lock.release()
    RootLock(tmp_path).release()


def test_a_dead_socket_goes_and_a_live_one_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    clear_socket(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(FailedPrecondition, match="another program listens"):
            clear_socket(path)
    clear_socket(path)
    assert not os.path.exists(path)


def test_subscribers_get_what_comes_after_them_in_order() -> None:
    async def run() -> None:
        bus = Bus()
        bus.publish("ns", "/early", Empty())
        async with bus.subscribe() as one, bus.subscribe() as two:
            for name in ("a", "b"):
                bus.publish("ns", "/images/create", image_events_pb2.ImageCreate(name=name))
            for subscription in (one, two):
                found = [await anext(subscription) for _ in range(2)]
                assert [event.topic for event in found] == ["/images/create"] * 2
                assert found[0].type_url == "containerd.services.images.v1.ImageCreate"
                assert image_events_pb2.ImageCreate.FromString(found[1].value).name == "b"
            bus.close()
            assert [event async for event in one] == []

    asyncio.run(run())


def test_a_subscriber_that_does_not_keep_up_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "MAX_PENDING", 3)

    async def run() -> None:
        bus = Bus()
        slow = bus.subscribe()
        for _ in range(5):
            bus.publish("ns", "/x", Empty())
        for _ in range(3):
            await anext(slow)
        with pytest.raises(ResourceExhausted):
            await anext(slow)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("rpc", "method"),
    [("ListStream", "list_stream"), ("CloseIO", "close_io"), ("Get", "get"), ("ResizePty", "resize_pty")],
)
def test_names_of_methods(rpc: str, method: str) -> None:
    assert server.snake_case(rpc) == method


class Images(Service):
    """Answers in every way a service can."""

    file = images_pb2.DESCRIPTOR
    name = "Images"

    async def get(self, request: images_pb2.GetImageRequest, call: Call) -> images_pb2.GetImageResponse:
        if request.name == "missing":
            raise NotFound('image "missing": not found')
        if request.name == "broken":
            raise KeyError("bug")
        with spans.span("inside"):
            return images_pb2.GetImageResponse(image=images_pb2.Image(name=f"{call.namespace} {call.lease}"))


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    address = str(folder / "sock")
    running = server.start([Images()], address)
    await running.start()
    assert os.stat(address).st_mode & 0o777 == 0o660
    try:
        async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
            yield channel
    finally:
        await running.stop(None)


async def ask(
    channel: grpc.aio.Channel, name: str, metadata: dict[str, str], method: str = "Get"
) -> images_pb2.GetImageResponse:
    table = methods(images_pb2.DESCRIPTOR, "Images")
    call = channel.unary_unary(
        table[method].path,
        request_serializer=images_pb2.GetImageRequest.SerializeToString,
        response_deserializer=images_pb2.GetImageResponse.FromString,
    )
    answer = await call(images_pb2.GetImageRequest(name=name), metadata=tuple(metadata.items()), timeout=20)
    assert isinstance(answer, images_pb2.GetImageResponse)
    return answer


async def status_of(
    channel: grpc.aio.Channel, name: str, metadata: dict[str, str], method: str = "Get"
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, name, metadata, method)
    return caught.value.code(), caught.value.details() or ""


NAMESPACE = {"containerd-namespace": "ns"}


def test_a_call_knows_its_namespace_and_lease(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as channel:
            answer = await ask(channel, "x", {**NAMESPACE, "containerd-lease": "l"})
            assert answer.image.name == "ns l"
            table = methods(images_pb2.DESCRIPTOR, "Images")
            call = channel.unary_unary(table["Get"].path)
            # As a client in Go sends it that has changed its mind: the newer one comes first.
            twice = [("containerd-namespace", name) for name in ("new", "old")]
            raw = await call(
                images_pb2.GetImageRequest(name="x").SerializeToString(), metadata=twice, timeout=20
            )
            assert images_pb2.GetImageResponse.FromString(raw).image.name == "new "
            code, text = await status_of(channel, "x", {})
            assert (code, text) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "namespace is required: failed precondition",
            )
            code, text = await status_of(channel, "x", {"containerd-namespace": "a/b"})
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert text.startswith('namespace validation: identifier "a/b" must match')

    asyncio.run(run())


def test_failures_become_a_status(tmp_path: Path) -> None:
    async def run() -> None:
        async with served(tmp_path) as channel:
            found = await status_of(channel, "missing", NAMESPACE)
            assert found == (grpc.StatusCode.NOT_FOUND, 'image "missing": not found')
            found = await status_of(channel, "broken", NAMESPACE)
            assert found == (grpc.StatusCode.UNKNOWN, "internal error: KeyError: 'bug'")
            found = await status_of(channel, "x", NAMESPACE, "Delete")
            assert found == (grpc.StatusCode.UNIMPLEMENTED, "method Delete not implemented")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("containerd.services.sandbox.v1.Store/List", "unknown service containerd.services.sandbox.v1.Store"),
        (
            "containerd.services.images.v1.Images/Fly",
            "unknown method Fly for service containerd.services.images.v1.Images",
        ),
    ],
)
def test_what_newer_clients_try_is_refused_in_words(tmp_path: Path, path: str, text: str) -> None:
    async def run() -> None:
        async with served(tmp_path) as channel:
            for kind in (channel.unary_unary, channel.unary_stream):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    call = kind(f"/{path}")(b"", timeout=20)
                    await (call if kind == channel.unary_unary else call.read())
                found = caught.value
                assert (found.code(), found.details()) == (grpc.StatusCode.UNIMPLEMENTED, text)

    asyncio.run(run())


@pytest.fixture
def recorded() -> Iterator[list[Span]]:
    found: list[Span] = []
    spans.configure("test", found.append)
    yield found
    spans.configure("", None)


def test_a_traced_call_is_a_span_of_the_callers_trace(tmp_path: Path, recorded: list[Span]) -> None:
    caller = SpanContext("a" * 32, "b" * 16)

    async def run() -> None:
        async with served(tmp_path) as channel:
            await ask(channel, "x", {**NAMESPACE, "traceparent": caller.traceparent})
            await ask(channel, "x", NAMESPACE)
            await status_of(channel, "missing", {**NAMESPACE, "traceparent": caller.traceparent})

    asyncio.run(run())
    inside, call, failed = recorded
    assert (call.name, call.parent_id, call.context.trace_id) == (
        "Images/Get",
        caller.span_id,
        caller.trace_id,
    )
    assert (inside.name, inside.parent_id) == ("inside", call.context.span_id)
    assert failed.error == 'image "missing": not found'


def test_version_has_a_number_that_clients_can_compare() -> None:
    from cutaway.containerd.services.version import Version

    table = methods(version_pb2.DESCRIPTOR, "Version")
    call = Call(table["Version"], {}, lambda: None)
    answer = asyncio.run(Version().version(Empty(), call))
    assert answer.version.startswith("1.6.")
