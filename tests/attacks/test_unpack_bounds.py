"""What a hostile layer may cost: memory stays within bounds, whatever comes out of few bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from isal import isal_zlib

from containerd.client import Client
from containerd.layers import Tar
from cutaway.containerd.unpack.apply import apply
from cutaway.errors import InvalidArgument
from support.netns import NetNs
from support.stack import OurContainerd

pytestmark = pytest.mark.root

MB = 1 << 20
ZEROS = 512 * MB


def zeros_in_a_whiteout() -> bytes:
    """Data that is read and thrown away: nothing of it reaches the disk."""
    entry = tarfile.TarInfo(".wh.gone")
    entry.size = ZEROS
    return entry.tobuf() + bytes(ZEROS + 1024)


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: isal_zlib.compress(data, level=1, wbits=31),
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_takes_no_memory(base_dir: Path, netns: NetNs, kind: str) -> None:
    bomb = BOMBS[kind](zeros_in_a_whiteout())
    assert len(bomb) < ZEROS / 100
    with OurContainerd(base_dir, netns) as daemon, Client.leased(daemon.address) as client:
        applied = client.apply(client.ingest(bomb), client.prepare("bomb"))
        assert applied.size == ZEROS + 512 + 1024
        peak = next(
            int(line.split()[1]) << 10
            for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
    assert peak < 150 * MB


MANY = 1_000_000

APPLY = """
import os, resource, sys
from pathlib import Path
from cutaway.containerd.unpack.apply import apply
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(apply(0, Path(sys.argv[1])).entries, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_entries_without_number_take_no_memory(tmp_path: Path) -> None:
    """Also those that are one and the same folder, again and again."""
    some = tarfile.TarInfo("folder")
    some.type = tarfile.DIRTYPE
    root = tarfile.TarInfo("./")
    root.type = tarfile.DIRTYPE
    part = (root.tobuf() * 9 + some.tobuf()) * 1000
    layer = tmp_path / "layer"
    packer = isal_zlib.compressobj(level=1, wbits=31)
    with layer.open("wb") as file:
        for _ in range(MANY // 10_000):
            file.write(packer.compress(part))
        file.write(packer.compress(bytes(1024)) + packer.flush())
    (tmp_path / "root").mkdir()
    with layer.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", APPLY, tmp_path / "root"], stdin=file, capture_output=True, check=True
        )
    entries, grown = map(int, done.stdout.split())
    assert entries == MANY
    assert grown < 32 << 10  # KiB


@pytest.mark.parametrize("key", ["path", "linkpath"])
def test_a_name_with_a_zero_in_it(tmp_path: Path, key: str) -> None:
    """A pax record can hold one; a reader that cuts there makes another file than the next reader."""
    kind = tarfile.REGTYPE if key == "path" else tarfile.LNKTYPE
    (tmp_path / "root").mkdir()
    (tmp_path / "layer").write_bytes(Tar().add("evil", kind, link="x", pax={key: "a\0b"}).bytes())
    with (tmp_path / "layer").open("rb") as file, pytest.raises(InvalidArgument, match=r"a\\x00b"):
        apply(file.fileno(), tmp_path / "root")
    assert os.listdir(tmp_path / "root") == []


def test_a_name_with_a_line_break_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "layer").write_bytes(Tar().add("a\nb", data=b"1").add("a\nb/c").bytes())
    with (tmp_path / "layer").open("rb") as file, pytest.raises(InvalidArgument) as caught:
        apply(file.fileno(), tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "root" / "a\nb").read_bytes() == b"1"
