"""The rest of the real `ctr`: images out and in, containers run and looked at, on ours and on containerd.

Both are told the same in the same order, and must print the same and end alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd.ctr_beside import answer, namespace_of
from support.netns import NetNs
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

Pair = tuple[Containerd, Containerd]


@pytest.fixture(scope="module")
def pair(session_base: Path, session_netns: NetNs, registry: RealRegistry) -> Iterator[Pair]:
    need("ctr", "containerd", "containerd-shim-runc-v2", "runc")
    registry.push_busybox("library/ctr")
    with (
        OurContainerd(session_base, session_netns, name="cmd-own") as ours,
        RealContainerd(session_base, session_netns, name="cmd-real") as theirs,
    ):
        for daemon in (ours, theirs):
            daemon.ctr("images", "pull", "--plain-http", image(registry), namespace=namespace_of(daemon))
        yield ours, theirs
    for daemon in (ours, theirs):
        shutil.rmtree(f"/run/containerd/runc/{namespace_of(daemon)}", ignore_errors=True)


def image(registry: RealRegistry) -> str:
    return f"{registry.host}/library/ctr:latest"


IMAGES = """\
images usage IMAGE
images usage none
images push --plain-http REGISTRY/library/pushed:v1 IMAGE
images push --plain-http REGISTRY/library/pushed:v1 none
images pull --plain-http REGISTRY/library/pushed:v1
images pull --plain-http REGISTRY/library/nothing:v1
images tag IMAGE tagged
images export FOLDER/one.tar IMAGE
images export --platform linux/amd64 FOLDER/two.tar IMAGE
images export FOLDER/three.tar none
images import FOLDER/one.tar
images import --no-unpack --base-name foo FOLDER/one.tar
images import --digests --base-name foo/bar FOLDER/one.tar
images import FOLDER/none.tar
images mount none FOLDER/mounted
images unmount none
images rm tagged none
images convert --oci IMAGE converted:1
images convert --uncompress IMAGE converted:2
images check
images ls
content fetch --plain-http IMAGE
content ls
content active
content prune references --dry
content prune references
snapshots usage
snapshots tree
snapshots diff none
snapshots unpack sha256:none
snapshots delete none
images rm --sync converted:1 converted:2 REGISTRY/library/pushed:v1
content ls
"""

CONTAINERS = """\
containers create IMAGE c1 true
containers create --cwd /tmp --env A=b --memory-limit 1000000 --read-only --user nobody IMAGE c2 echo hi
containers create --mount type=bind,src=/tmp,dst=/mnt,options=rbind:ro --with-ns network:/net IMAGE c
containers info --spec c1
containers info --spec c2
containers info --spec c
containers ls
containers label c1 a=b
tasks start c1
tasks rm c1
tasks ls
containers delete c1 c2 c
containers rm none
tasks start none
tasks kill none
tasks pause none
tasks resume none
tasks ps none
tasks metrics none
tasks attach none
tasks delete none
tasks exec --exec-id e none true
tasks checkpoint none
leases create --id held --expires 1h a=b
leases ls -q
leases rm --sync held
leases rm none
namespaces label none x=z
namespaces rm --cgroup nothing
plugins ls -q id==overlayfs
plugins ls type==io.containerd.grpc.v1,id==images
plugins ls bad=
shim --id none state
"""

RUN = """\
run --rm IMAGE r1 echo hi
run --rm --env A=b IMAGE r2 env
run --rm --cwd /tmp IMAGE r3 pwd
run --rm --user nobody IMAGE r4 id
run --rm --memory-limit 20000000 IMAGE r5 true
run --rm --read-only IMAGE r6 touch /x
run --rm --privileged IMAGE r7 true
run --rm --net-host IMAGE r8 true
run --rm --mount type=bind,src=/proc/1,dst=/mnt,options=rbind:ro IMAGE r9 ls -d /mnt/ns
run --rm --pid-file FOLDER/pid IMAGE r10 true
run --rm --label a=b --hostname other IMAGE r11 hostname
run --rm --log-uri file://FOLDER/log IMAGE r12 echo logged
run --rm --seccomp IMAGE r13 true
run --rm --no-pivot IMAGE r14 true
run --rm --cpus 0.5 IMAGE r15 true
run --rm --config FOLDER/none IMAGE r16
run --rm --snapshotter none IMAGE r18 true
run --rm --runtime io.containerd.none.v1 IMAGE r19 true
run --rm none r20
containers ls
snapshots ls
run -d IMAGE long sleep 1000
run -d IMAGE long sleep 1000
tasks ls -q
tasks exec --exec-id e1 long false
tasks exec --exec-id e1 --cwd /tmp long pwd
tasks exec --exec-id e1 --user nobody long id
tasks exec --exec-id e1 long nothing-of-the-kind
tasks pause long
tasks pause long
tasks exec --exec-id e2 long true
tasks resume long
tasks delete long
containers rm long
snapshots rm long
tasks kill -s SIGNOPE long
tasks kill --exec-id none long
tasks delete --force long
tasks delete long
containers rm long
run -d --rm IMAGE short true
images rm --sync IMAGE
content ls
snapshots ls
"""


@pytest.mark.parametrize("table", [IMAGES, CONTAINERS, RUN], ids=["images", "containers", "run"])
def test_commands_print_the_same(pair: Pair, registry: RealRegistry, table: str) -> None:
    ours, theirs = pair
    words = {"IMAGE": image(registry), "REGISTRY": registry.host}
    for command in table.splitlines():
        assert answer(ours, command, words) == answer(theirs, command, words), command
    logged = [(daemon.folder / "log").exists() for daemon in pair]
    assert logged[0] == logged[1]
