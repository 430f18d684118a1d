"""Images, content, snapshots and containers by the real `ctr`, on our daemon and on containerd.

Both are told the same things in the same order and must answer the same, to the letter of what ctr prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from containerd import layers, trees
from containerd.ctr_beside import answer
from support.images import Image, Layer
from support.netns import NetNs
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd, RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.fixture(scope="module")
def ours(session_base: Path, session_netns: NetNs) -> Iterator[OurContainerd]:
    need("ctr")
    with OurContainerd(session_base, session_netns, name="own") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def theirs(session_base: Path, session_netns: NetNs) -> Iterator[RealContainerd]:
    need("ctr", "containerd")
    with RealContainerd(session_base, session_netns, name="quiet") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def reference(registry: RealRegistry) -> str:
    image = Image(
        tuple(Layer(data) for data in (layers.base(), layers.changes(), layers.more())), {"Env": []}
    )
    registry.push(image, "library/layers")
    return f"{registry.host}/library/layers:latest"


HELLO = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # of hello and a line's end
OTHER = "sha256:" + "0" * 64

# Words in capitals are filled in; content that is ingested is a line that says hello.
SCENARIOS = {
    "images": [
        "images pull --plain-http REFERENCE",
        "images ls",
        "images ls -q",
        "images ls name~=nothing",
        "images check",
        "images tag REFERENCE copy",
        "images tag REFERENCE copy",
        "images label copy a.b=c d=e",
        "images label copy d=",
        "images ls name==copy",
        'images ls labels."a.b"==c',
        "images rm copy",
        "images rm copy",
        "images rm --sync REFERENCE",
        "images ls",
        "content ls",
        "snapshots ls",
    ],
    "content": [
        "content ingest some --expected-digest HELLO",
        "content ls -q",
        "content get HELLO",
        "content ingest some --expected-digest HELLO",
        "content ingest wrong --expected-digest OTHER",
        "content ingest wrong-size --expected-size 5",
        "content label HELLO x=y",
        "content ls x",
        "content ls labels.x==y",
        "content active",
        "content get OTHER",
        "content get nonsense",
        "content rm HELLO",
        "content rm HELLO",
        "content ls -q",
    ],
    "snapshots": [
        "snapshots prepare one",
        "snapshots prepare one",
        "snapshots mounts /mnt one",
        "snapshots commit base one",
        "snapshots prepare two base",
        "snapshots mounts /mnt two",
        "snapshots commit top two",
        "snapshots prepare three top",
        "snapshots mounts /mnt three",
        "snapshots prepare four nothing",
        "snapshots prepare five three",
        "snapshots commit again nothing",
        "snapshots ls",
        "snapshots tree",
        "snapshots usage base top three",
        "snapshots info top",
        "snapshots info nothing",
        "snapshots label top a=b",
        "snapshots rm base",
        "snapshots rm nothing",
        "snapshots mounts /mnt top",
        "snapshots rm three top base",
        "snapshots ls",
        "snapshots --snapshotter nonsense ls",
    ],
    "containers": [
        "images pull --plain-http REFERENCE",
        "containers create REFERENCE one sleep 1",
        "containers create --label a=b REFERENCE two",
        "containers create REFERENCE two",
        "containers ls",
        "containers ls -q labels.a==b",
        "containers ls -q id~=o$",
        "containers label one k=v",
        "containers info --spec one",
        "containers info nothing",
        "containers rm one two",
        "containers rm nothing",
        "containers ls",
        "snapshots tree",
        "images rm --sync REFERENCE",
    ],
    "leases": [
        "leases create --id one a=b",
        "leases create --id one",
        "leases create --id two -x 0",
        "leases ls",
        "leases ls -q id==two",
        "leases rm one two",
        "leases rm one",
        "leases ls",
    ],
    "namespaces": [
        "namespaces create cw-made a=b",
        "namespaces create cw-made",
        "namespaces create bad/name",
        "-n cw-made content ingest some",
        "namespaces rm cw-made",
        "namespaces label cw-made c=d a=",
        "-n cw-made content rm HELLO",
        "namespaces rm cw-made",
        "namespaces rm cw-made",
        "-n bad/name images ls",
    ],
    "filters": [
        "images ls name",
        "images ls name~~x",
        'images ls name=="unclosed',
        "images ls name=x",
        "images ls a,,b",
    ],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ctr_prints_what_it_prints_with_containerd(
    scenario: str, ours: OurContainerd, theirs: RealContainerd, reference: str
) -> None:
    words = {"REFERENCE": reference, "HELLO": HELLO, "OTHER": OTHER}
    for command in SCENARIOS[scenario]:
        assert answer(ours, command, words) == answer(theirs, command, words), command


def layers_of(daemon: Containerd, reference: str) -> list[Path]:
    """The directories of a pulled image, topmost first."""
    daemon.ctr("images", "pull", "--plain-http", reference)
    rows = [line.split() for line in daemon.ctr("snapshots", "ls").stdout.splitlines()[1:]]
    parents = {row[1] for row in rows if len(row) == 3}
    (top,) = [row[0] for row in rows if row[0] not in parents]
    daemon.ctr("snapshots", "prepare", "look", top)
    mounts = daemon.ctr("snapshots", "mounts", "/x", "look").stdout
    return [Path(one) for one in mounts.split("lowerdir=")[1].split()[0].split(":")]


def test_layers_are_unpacked_as_by_containerd(
    ours: OurContainerd, theirs: RealContainerd, reference: str
) -> None:
    mine, others = layers_of(ours, reference), layers_of(theirs, reference)
    assert len(mine) == len(others) == 3
    for one, other in zip(mine, others, strict=True):
        assert trees.describe(one) == trees.describe(other)
    for daemon in (ours, theirs):
        daemon.ctr("snapshots", "rm", "look")
        daemon.ctr("images", "rm", "--sync", reference)
        assert daemon.ctr("content", "ls", "-q").stdout == ""


def test_archives_go_from_one_to_the_other(
    ours: OurContainerd, theirs: RealContainerd, reference: str, base_dir: Path
) -> None:
    archives = []
    for source, target in ((ours, theirs), (theirs, ours)):
        archive = base_dir / f"{source.folder.name}.tar"
        source.ctr("images", "pull", "--plain-http", reference)
        source.ctr("images", "export", str(archive), reference)
        source.ctr("images", "rm", "--sync", reference)
        target.ctr("images", "import", str(archive))
        assert reference in target.ctr("images", "ls", "-q").stdout
        assert target.ctr("images", "check", "-q").stdout.split() == [reference]
        target.ctr("images", "rm", "--sync", reference)
        archives.append(archive.read_bytes())
    assert archives[0] == archives[1]


def test_an_image_is_mounted_and_fetched(ours: OurContainerd, reference: str, base_dir: Path) -> None:
    ours.ctr("content", "fetch", "--plain-http", reference)
    digest = ours.ctr("images", "ls").stdout.splitlines()[1].split()[2]
    assert '"layers"' in ours.ctr("content", "get", digest).stdout
    ours.ctr("images", "unpack", digest, check=False)
    target = base_dir / "mounted"
    target.mkdir()
    try:
        ours.ctr("images", "mount", reference, str(target))
        assert (target / "replaced").read_bytes() == b"now a file"
        assert not (target / "gone").exists()
        assert sorted(one.name for one in (target / "opaque").iterdir()) == ["above", "again"]
    finally:
        ours.ctr("images", "unmount", "--rm", str(target), check=False)
    ours.ctr("images", "rm", "--sync", reference)
    assert ours.ctr("snapshots", "ls").stdout.splitlines()[1:] == []
