"""save, load, push, import, export, commit, history, prune, df: docker and cutaway on one real dockerd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cli.side_by_side import SideBySide
from support.images import busybox_image, tar
from support.stack import RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]


@pytest.mark.parametrize(
    "line",
    [
        "save",
        "save nope",
        "save -o /nowhere/x busybox",
        "load x",
        "load -i /nowhere",
        "push",
        "push nope",
        "push -a busybox:1",
        f"push busybox@sha256:{'0' * 64}",
        "import",
        "import /nowhere",
        "export",
        "export nope",
        "export -o /nowhere/x nope",
        "commit",
        "commit nope",
        "commit a b c",
        "history",
        "history nope",
        "history --foo x",
        "search",
        "search --limit 0 x",
        "image prune x",
        "image prune -f --filter foo=x",
        "image prune -f --filter until=x",
        "container prune -f --filter foo=x",
        "system df x",
        "system prune x",
        "system prune -f --volumes --filter until=1h",
    ],
)
def test_refusals(both: SideBySide, line: str) -> None:
    assert both.same(*line.split(), input="").err


@pytest.mark.parametrize(
    "line",
    [
        "history busybox",
        "history --no-trunc busybox",
        "history -q busybox",
        "history -H=false busybox",
        "history --format {{.ID}}:{{.CreatedAt}}:{{.Size}} busybox",
        "image history busybox",
        "system df",
        "system df --format {{.Type}}:{{.Size}}:{{.Reclaimable}}",
        "container prune",
        "image prune",
        "image prune -a",
        "image prune -f",
        "volume prune",
        "system prune",
        "system prune -a --volumes",
    ],
)
def test_answers(both: SideBySide, line: str) -> None:
    assert both.same(*line.split(), input="").out


@pytest.fixture
def archive(both: SideBySide, base_dir: Path) -> Iterator[Path]:
    file = base_dir / "x.tar"
    file.write_bytes(busybox_image().docker_archive("loaded:1", "loaded:2"))
    yield file
    both.docker("rmi", "-f", "loaded:1", "loaded:2")


def test_load_and_save(both: SideBySide, archive: Path) -> None:
    assert both.same("load", "-i", str(archive)).out == "Loaded image: loaded:1\nLoaded image: loaded:2\n"
    assert both.same("load", "-q", "--input", str(archive)).code == 0
    saved = archive.parent / "saved.tar"
    sizes = []
    for run in (both.docker, both.cutaway):
        assert run("save", "-o", str(saved), "loaded:1").code == 0
        sizes.append(saved.stat().st_size)
        saved.unlink()
    assert sizes[0] == sizes[1]


def test_import_commit_and_export(both: SideBySide, base_dir: Path) -> None:
    file = base_dir / "root.tar"
    file.write_bytes(tar({"one": b"1"}))
    assert both.same("import", "-c", "CMD x", "-m", "text", str(file), "imported:1").code == 0
    both.docker("create", "--name", "kept", "busybox", "x")
    assert both.same("commit", "-m", "text", "-a", "me", "-c", "ENV A=b", "kept", "committed:1").code == 0
    assert both.same("commit", "kept").code == 0
    for run in (both.docker, both.cutaway):
        assert run("export", "-o", str(base_dir / "out.tar"), "kept").code == 0
        assert (base_dir / "out.tar").stat().st_size > 1_000_000
        (base_dir / "out.tar").unlink()
    both.remove("kept")
    both.docker("rmi", "imported:1", "committed:1")
    both.docker("image", "prune", "-f")


def test_push_and_pull_all(both: SideBySide, registry: RealRegistry) -> None:
    one, two = f"{registry.host}/pushed:1", f"{registry.host}/pushed:2"
    for name in (one, two):
        both.docker("tag", "busybox", name)
    both.docker("push", "-a", f"{registry.host}/pushed")
    assert "Layer already exists" in both.same("push", one).out
    assert both.same("push", "-q", one).out == f"{one}\n"
    assert both.same("push", "-a", f"{registry.host}/pushed").out.count("digest: ") == 2
    forget = partial(both.docker, "rmi", one, two)
    assert both.same("pull", "-a", f"{registry.host}/pushed", before=forget).out.count("Digest: ") == 2
    forget()


def test_prune_tells_what_it_removed(both: SideBySide, base_dir: Path) -> None:
    file = base_dir / "root.tar"
    file.write_bytes(tar({"one": b"1"}))

    def make() -> None:
        both.docker("import", str(file))
        both.docker("import", str(file), "unused:1")
        both.docker("create", "--name", "ended", "--label", "k=v", "busybox", "x")

    prune = ("container", "prune", "-f", "--filter", "label=k=v")
    assert "Deleted Containers:" in both.same(*prune, before=make).out

    def make_again() -> None:
        both.remove("ended")
        both.docker("image", "prune", "-a", "-f", "--filter", "label!=kept")
        make()

    both.docker("create", "--name", "keeps", "busybox", "x")  # so that pruning leaves it
    assert "deleted: sha256:" in both.same("image", "prune", "-f", before=make_again).out
    both.remove("keeps")
    both.remove("ended")
    verbose = both.same("system", "df", "-v").out
    assert "unused" in verbose
    assert (
        json.loads(both.same("system", "df", "--format", "{{json .}}").out.splitlines()[0])["Type"]
        == "Images"
    )
    both.docker("rmi", "unused:1")
    both.docker("image", "prune", "-f")
