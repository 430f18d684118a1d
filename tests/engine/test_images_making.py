"""import, commit and export: what comes of them is what dockerd makes of the same."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.side_by_side import CUTAWAY
from engine.engine_stack import REAL_BELOW, Stack, stack
from support.images import tar
from support.peers import need
from support.stack import Engine, OurContainerd, RealContainerd, RealDockerd

pytestmark = [pytest.mark.root, pytest.mark.peers]

BELOW: dict[str, type[RealContainerd | OurContainerd]] = {
    "containerd": RealContainerd,
    "cutaway": OurContainerd,
}

CHANGES = (
    'ENV A=1 B="two words" PATH=$PATH:/x',
    "CMD echo hello",
    "LABEL k=v",
    "EXPOSE 80 90-91/udp",
    "VOLUME /data",
    "USER 1:2",
    "WORKDIR /w",
    "HEALTHCHECK --interval=5s --retries=2 CMD test -f /x",
    "ONBUILD RUN true",
)


@pytest.fixture(scope="module", params=BELOW)
def rig(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Our engine over either containerd; busybox:latest is in it."""
    need("docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack(REAL_BELOW, below=BELOW[request.param]) as made:
        yield made


def inspected(engine: Engine, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(engine.docker("image", "inspect", name).stdout)
    return found[0]


def config(engine: Engine, name: str) -> dict[str, Any]:
    """An image's defaults without what only a container has; nothing and null are one."""
    whole: dict[str, Any] = inspected(engine, name)["Config"]
    shown = {key: value for key, value in whole.items() if value and key not in ("Hostname", "Image")}
    return {key: value for key, value in shown.items() if not key.startswith("Attach")}


def change_flags() -> list[str]:
    return [word for change in CHANGES for word in ("--change", change)]


def test_commit_is_what_dockerd_commits(rig: Stack, real_dockerd: RealDockerd) -> None:
    images = {}
    real_dockerd.docker("rm", "work", check=False)
    for engine in (real_dockerd, rig.engine):
        engine.docker("run", "--name", "work", "-e", "X=y", "-l", "l=m", "--network", "none", "busybox",
                      "sh", "-c", "echo new > /new; rm /etc/group; mkdir /w")  # fmt: skip
        said = engine.docker("commit", "-m", "why", "-a", "me", *change_flags(), "work", "made:1").stdout
        images[engine] = inspected(engine, "made:1")
        assert said.strip() == images[engine]["Id"]
    theirs, ours = images[real_dockerd], images[rig.engine]
    assert config(rig.engine, "made:1") == config(real_dockerd, "made:1")
    for key in ("Comment", "Author", "Architecture", "Os", "RepoTags"):
        assert ours[key] == theirs[key], key
    assert len(ours["RootFS"]["Layers"]) == len(theirs["RootFS"]["Layers"]) == 2

    script = "cat /new; test ! -e /etc/group && echo gone; pwd; id -u"
    told = rig.docker("run", "--rm", "--entrypoint", "", "made:1", "sh", "-c", script)
    assert told == "new\ngone\n/w\n1\n"
    for engine in (real_dockerd, rig.engine):
        engine.docker("rm", "work")
        engine.docker("rmi", "made:1")


def test_commit_of_a_running_container_pauses_it_and_lets_it_go_on(rig: Stack) -> None:
    rig.docker("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
    rig.docker("exec", "busy", "touch", "/made")
    identity = rig.engine.docker("commit", "busy", program=CUTAWAY).stdout.strip()
    assert rig.state("busy") == "running"
    assert rig.docker("run", "--rm", identity, "ls", "/made") == "/made\n"
    # Nothing changed since: no layer, but a line of history, as Docker has it.
    rig.docker("run", "--name", "idle", identity, "true")
    again = rig.docker("commit", "idle").strip()
    layers = [inspected(rig.engine, name)["RootFS"]["Layers"] for name in (identity, again)]
    assert layers[0] == layers[1]
    rig.docker("rm", "-f", "busy", "idle")
    rig.docker("rmi", "-f", again, identity)


def test_import_is_what_dockerd_imports(rig: Stack, real_dockerd: RealDockerd, base_dir: Path) -> None:
    file = base_dir / "root.tar"
    file.write_bytes(tar({"etc/one": b"1"}))
    images = []
    for engine, program in ((real_dockerd, None), (rig.engine, CUTAWAY)):
        engine.docker("import", "-m", "brought", *change_flags(), str(file), "brought:1", program=program)
        images.append(inspected(engine, "brought:1"))
    theirs, ours = images
    assert config(rig.engine, "brought:1") == config(real_dockerd, "brought:1")
    for key in ("Comment", "RootFS", "RepoTags", "Os", "Architecture"):
        assert ours[key] == theirs[key], key
    for engine in (real_dockerd, rig.engine):
        engine.docker("rmi", "brought:1")


def test_export_is_the_whole_tree_and_imports_again(rig: Stack, base_dir: Path) -> None:
    rig.docker("run", "--name", "source", "busybox", "sh", "-c", "echo x > /made; chmod 4711 /made")
    file = base_dir / "tree.tar"
    rig.engine.docker("export", "-o", str(file), "source", program=CUTAWAY)
    with tarfile.open(file) as opened:
        assert opened.getmember("made").mode & 0o7777 == 0o4711
        assert {"bin/busybox", "etc/passwd", "bin/sh"} <= {
            name.removeprefix("./") for name in opened.getnames()
        }
    identity = rig.docker("import", str(file)).strip()
    assert rig.docker("run", "--rm", identity, "cat", "/made") == "x\n"
    rig.docker("rm", "source")
    rig.docker("rmi", identity)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("RUN x", "run is not a valid change command"),
        ("FOO x", "foo is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", 'Syntax error - can\'t find = in "B". Must be of the form: name=value'),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("STOPSIGNAL INT", "stopsignal is not a valid change command"),
    ],
)
def test_changes_that_cannot_be_are_refused_in_dockers_words(
    rig: Stack, real_dockerd: RealDockerd, change: str, words: str
) -> None:
    told = [
        engine.docker("import", "-c", change, "-", input="", check=False).stderr.strip()
        for engine in (real_dockerd, rig.engine)
    ]
    assert told == [f"Error response from daemon: {words}"] * 2


def test_what_is_no_tar_file_leaves_nothing(rig: Stack) -> None:
    before = rig.docker("images", "-aq")
    assert rig.fails("import", "-", "bad:1", input="garbage" * 1000)[0] == 1
    assert rig.docker("images", "-aq") == before
