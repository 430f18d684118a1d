"""What clients do while a process dies under them: it may be broken off anywhere and done again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc

from containerd import layers
from containerd.client import LAYER, WRITE, Client, digest_of
from containerd.task_rig import Refused, Rig, shims
from cutaway.pb import content_pb2, images_pb2, leases_pb2, mount_pb2
from cutaway.pb.content_pb2 import WriteContentRequest
from support.process import wait_until

LEASE = "pull"
ROOT_LABEL = {"containerd.io/gc.root": "x"}
EXIT_CODE = 7


@contextmanager
def unless(*codes: grpc.StatusCode) -> Iterator[None]:
    """What the daemon has done before, or has nothing to do for, is no failure."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() not in codes:
            raise


gone = grpc.StatusCode.NOT_FOUND
there = grpc.StatusCode.ALREADY_EXISTS


class Storage:
    """An image is pulled, unpacked and looked at; a layer is made; all of it is deleted and collected."""

    base, upper = layers.base(), layers.changes()
    big = b"x" * (2 << 20)

    def run(self, on: Rig) -> None:
        address, namespace = on.daemon.address, on.namespace
        with Client(address, namespace) as plain:
            with unless(there):
                plain.lease(LEASE)
            with Client(address, namespace, LEASE) as leased:
                self._pull(leased)
                self._look(leased)
            plain.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=LEASE, sync=True))
            assert digest_of(self.base) in {info.digest for info in plain.blobs()}
            delete = images_pb2.DeleteImageRequest(name="image", sync=True)
            plain.call(images_pb2, "Images/Delete", delete)
            # What nothing needs is gone: the image was all that kept its layers and their snapshots.
            assert {info.digest for info in plain.blobs()} == {digest_of(self.big)}
            gone_too = content_pb2.DeleteContentRequest(digest=digest_of(self.big))
            plain.call(content_pb2, "Content/Delete", gone_too)

    def _pull(self, client: Client) -> None:
        start = WriteContentRequest(action=WRITE, ref="big", total=len(self.big), data=self.big[:1000])
        with unless(there):
            client.write(start)
        for data, ref in ((self.base, "base"), (self.upper, "upper"), (self.big, "big")):
            with unless(there):
                client.ingest(data, ref, ROOT_LABEL if ref == "big" else {})
        parent = ""
        for data, name in ((self.base, "one"), (self.upper, "two")):
            with unless(gone):
                client.remove(f"extract-{name}")
            applied = client.apply(digest_of(data), client.prepare(f"extract-{name}", parent), LAYER)
            assert applied.digest == digest_of(data)
            with unless(there):
                client.commit(f"extract-{name}", name)
            parent = name
        refs = {"one": digest_of(self.base), "two": digest_of(self.upper)}
        labels = {f"containerd.io/gc.ref.content.{number}": ref for number, ref in enumerate(refs.values())}
        with unless(there):
            client.ingest(
                b"manifest", "manifest", {**labels, "containerd.io/gc.ref.snapshot.overlayfs": "two"}
            )
        with unless(there):
            client.image("image", digest_of(b"manifest"))

    def _look(self, client: Client) -> None:
        for key, snapshotter in (("view", "overlayfs"), ("below", "overlayfs"), ("whole", "native")):
            with unless(gone):
                client.remove(key, snapshotter)
        lower, view = client.view("below", "one"), client.view("view", "two")
        made = client.diff(lower, view, f"{LAYER}+gzip")
        assert client.read(made.digest)[:2] == b"\x1f\x8b"
        with unless(gone, grpc.StatusCode.FAILED_PRECONDITION):
            client.remove("copied", "native")
        with unless(there):
            client.prepare("whole", "", "native")
            client.commit("whole", "copied", "native")
        client.prepare("whole", "copied", "native")
        # Neither an overlay nor a bind: the daemon mounts it to unpack there.
        memory = mount_pb2.Mount(type="tmpfs", source="tmpfs")
        client.apply(digest_of(self.upper), [memory], LAYER)
        client.remove("view")

    def clear(self, on: Rig) -> None:
        """Give up: nothing of it is to be left."""
        with Client(on.daemon.address, on.namespace) as plain:
            with unless(gone):
                plain.call(images_pb2, "Images/Delete", images_pb2.DeleteImageRequest(name="image"))
            with unless(gone):
                digest = digest_of(self.big)
                plain.call(content_pb2, "Content/Delete", content_pb2.DeleteContentRequest(digest=digest))
            with unless(gone):
                plain.call(content_pb2, "Content/Abort", content_pb2.AbortRequest(ref="big"))
            with unless(gone):
                plain.call(leases_pb2, "Leases/Delete", leases_pb2.DeleteRequest(id=LEASE))
            plain.collect()


class Tasks:
    """A container is made, runs, runs another process, is killed and removed; a second one ends of itself.

    A third one loses its shim, and the service cleans up after that.
    """

    ids = ("first", "second", "third")

    def run(self, on: Rig) -> None:
        self._create(on, "first", "sleep", "1000")
        on.tasks("Start", container_id="first")
        on.exec("first", "more", "sh", "-c", f"exit {EXIT_CODE}")
        on.tasks("Start", container_id="first", exec_id="more")
        assert on.tasks("Wait", container_id="first", exec_id="more").exit_status == EXIT_CODE
        on.tasks("DeleteProcess", container_id="first", exec_id="more")
        assert on.end("first") == 137
        self._create(on, "second", "sh", "-c", f"exit {EXIT_CODE}")
        waiting = on.tasks.begin("Wait", container_id="second")
        on.tasks("Start", container_id="second")
        try:
            assert waiting.result(20).exit_status == EXIT_CODE
        except grpc.RpcError as error:
            raise Refused(error) from None
        assert on.drop("second") == EXIT_CODE
        self._create(on, "third", "sleep", "1000")
        on.tasks("Start", container_id="third")
        kill_shim(on, "third")
        wait_until(lambda: "third" not in on.statuses(), "the task is gone")
        on.containers("Delete", id="third")

    def _create(self, on: Rig, id: str, *args: str) -> None:
        spec = on.spec(id, args)
        spec["root"] = {"path": "rootfs"}
        on.container(id, spec=spec)
        mount = {"type": "bind", "source": str(on.rootfs), "options": ["rbind", "rw"]}
        on.tasks("Create", container_id=id, rootfs=[mount])

    def clear(self, on: Rig) -> None:
        """As `ctr task rm --force` and `ctr container rm` do."""
        for id in self.ids:
            with self._unless_gone():
                on.tasks("Kill", container_id=id, signal=9)
            with self._unless_gone():
                on.tasks("Wait", container_id=id) if on.statuses()[id] != 1 else None
            with self._unless_gone():
                on.tasks("Delete", container_id=id)
            with self._unless_gone():
                on.containers("Delete", id=id)
            assert id not in on.statuses()

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        with suppress(KeyError):
            try:
                yield
            except Refused as error:
                if error.code != "NOT_FOUND":
                    raise


def kill_shim(on: Rig, id: str) -> None:
    """Kill a task's shim, and the child of it that may still be ending."""
    for pid in shims(on, id):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


Scenario = Storage | Tasks
SCENARIOS: dict[str, Callable[[], Scenario]] = {"storage": Storage, "tasks": Tasks}
