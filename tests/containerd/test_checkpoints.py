"""Checkpoints by gRPC, on containerd and on ours. What criu would do is done by a shell script."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from containerd.client import Client
from containerd.task_rig import SPEC, Rig, assert_nothing_left, beside, refused, runtime_options, script
from cutaway.pb import runc_options_pb2
from cutaway.pb.descriptor_pb2 import Descriptor
from support.peers import peer
from support.stack import OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

SAVED = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
RUNTIME = """
echo "$*" >> {base}/calls
case " $* " in
*" checkpoint "*)
    [ -e {base}/fail ] && exit 1
    for word in "$@"; do
        [ "$previous" = --image-path ] && mkdir -p "$word/deep" && echo pages > "$word/deep/pages-1.img"
        previous=$word
    done
    exit 0;;
*" restore "*)
    for word in "$@"; do
        [ "$previous" = --image-path ] && cat "$word/deep/pages-1.img" > {base}/restored
        [ "$previous" = --pid-file ] && file=$word
        previous=$word
    done
    sleep 1000 < /dev/null > /dev/null 2>&1 &
    printf %s $! > "$file"; echo $! > {base}/pid
    exit 0;;
*" delete "*) [ -e {base}/pid ] && kill -9 "$(cat {base}/pid)"; exec {runc} "$@";;
*" kill "*) [ -e {base}/pid ] && exec kill -9 "$(cat {base}/pid)"; exec {runc} "$@";;
*) exec {runc} "$@";;
esac
"""


@pytest.fixture(scope="module", params=[RealContainerd, OurContainerd])
def on(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with beside(request.param) as rig:
        with Client(rig.daemon.address, rig.namespace) as client:
            client.lease(LEASE)
        yield rig


@pytest.fixture
def base(on: Rig) -> Iterator[Path]:
    """Where the script below the shim says what was asked of it."""
    base = on.daemon.folder
    yield base
    for name in ("calls", "fail", "restored", "pid"):
        (base / name).unlink(missing_ok=True)


def options(on: Rig, criu_image_path: str = "") -> Any:
    program = script(
        on, "with-criu", RUNTIME.format(base=shlex.quote(str(on.daemon.folder)), runc=peer("runc"))
    )
    found = runc_options_pb2.Options.FromString(runtime_options(program).value)
    found.MergeFrom(runc_options_pb2.Options(criu_image_path=criu_image_path))
    return Any(type_url="containerd.runc.v1.Options", value=found.SerializeToString())


def named(folder: str) -> Any:
    value = runc_options_pb2.CheckpointOptions(image_path=folder).SerializeToString()
    return Any(type_url="containerd.runc.v1.CheckpointOptions", value=value)


LEASE = "checkpoints"


def checkpoint(on: Rig, id: str, options: Any | None = None) -> list[Descriptor]:
    """Under a lease, as clients do it: nothing else keeps what is made."""
    lease = (("containerd-lease", LEASE),)
    return list(on.tasks("Checkpoint", metadata=lease, container_id=id, options=options).descriptors)


def test_a_checkpoint_is_content_and_a_task_is_made_from_it(on: Rig, base: Path) -> None:
    on.running("saved", options=options(on))
    images, spec = checkpoint(on, "saved")
    assert images.media_type == SAVED
    assert spec.media_type == "application/vnd.containerd.container.checkpoint.config.v1+proto"
    with Client(on.daemon.address, on.namespace) as client:
        with tarfile.open(fileobj=io.BytesIO(archive := client.read(images.digest))) as found:
            pages = found.extractfile("deep/pages-1.img")
            assert pages is not None
            assert pages.read() == b"pages\n"
        assert images.size == len(archive)
        kept = Any.FromString(client.read(spec.digest))
    assert kept.type_url == SPEC
    assert json.loads(kept.value)["process"]["args"] == ["sleep", "1000"]
    if isinstance(on.daemon, OurContainerd):  # containerd fails for a spec that it has saved before
        assert checkpoint(on, "saved")[1].digest == spec.digest
    on.end("saved")

    on.container("again", "sleep", "1000", options=options(on))
    on.tasks("Create", container_id="again", checkpoint=images)
    on.tasks("Start", container_id="again")
    assert (base / "restored").read_text() == "pages\n"
    on.tasks("Kill", container_id="again", signal=9, all=True)
    on.tasks("Wait", container_id="again")
    on.drop("again")
    assert_nothing_left(on, "again")


def test_a_client_may_name_its_own_directory(on: Rig, base: Path) -> None:
    on.running("own", options=options(on))
    folder = base / "own-images"
    assert checkpoint(on, "own", named(str(folder))) == []
    assert (folder / "deep/pages-1.img").read_text() == "pages\n"
    on.end("own")
    on.container("back", "sleep", "1000")
    on.tasks("Create", container_id="back", options=options(on, criu_image_path=str(folder)))
    on.tasks("Start", container_id="back")
    assert (base / "restored").read_text() == "pages\n"
    on.tasks("Kill", container_id="back", signal=9, all=True)
    on.tasks("Wait", container_id="back")
    on.drop("back")


def test_what_cannot_be_saved_or_restored(on: Rig, base: Path) -> None:
    with refused("NOT_FOUND", f'container "none" in namespace "{on.namespace}": not found'):
        checkpoint(on, "none")
    on.container("idle", "sleep", "1000", options=options(on))
    with refused("NOT_FOUND", "task idle not found"):
        checkpoint(on, "idle")
    with refused("UNKNOWN", 'unsupported checkpoint type "x"'):
        on.tasks("Create", container_id="idle", checkpoint=Descriptor(media_type="x", digest="sha256:1"))
    missing = f"sha256:{'0' * 64}"
    with refused("UNKNOWN", f"content digest {missing}: not found"):
        on.tasks("Create", container_id="idle", checkpoint=Descriptor(media_type=SAVED, digest=missing))
    on.containers("Delete", id="idle")
    on.running("stays", options=options(on))
    (base / "fail").touch()
    with pytest.raises(Exception, match="did not terminate successfully: exit status 1"):
        checkpoint(on, "stays")
    assert on.statuses() == {"stays": 2}
    on.end("stays")
    assert [one for one in on.daemon.state.iterdir() if one.name.startswith("ctd-checkpoint")] == []
