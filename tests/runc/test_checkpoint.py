"""`checkpoint` and `restore` with the real criu: on a kernel that it can work with (`make test-vm`)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runc.bundles import Bundle, Runtime
from support.peers import need, peer
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /run/count; sleep 0.1; done"


@pytest.fixture
def criu() -> Path:
    need("criu")
    program = peer("criu")
    checked = subprocess.run([program, "check"], capture_output=True, text=True, check=False)
    said = (checked.stdout + checked.stderr).strip()
    # Not merely without some features, of which it says each; it may also fail without a word.
    if checked.returncode and (not said or "Could not initialize" in said):
        pytest.skip(f"criu does not work on this kernel: {said.partition(chr(10))[0]}")
    return program


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, base_dir: Path) -> None:
    """runc leaves criu's logs where it is called."""
    monkeypatch.chdir(base_dir)


@pytest.fixture
def counting(ours: Runtime, bundle: Bundle, name: str, criu: Path) -> str:
    """A container that counts, in a file on a tmpfs of its own."""
    # With a network namespace criu asks iptables to hold its packets back.
    namespaces = [each for each in bundle.linux["namespaces"] if each["type"] != "network"]
    bundle.linux["namespaces"] = namespaces
    bundle.mount("/run", "tmpfs", "tmpfs", "nosuid", "nodev")
    (bundle.rootfs / "run").mkdir()
    bundle.shell(COUNT)
    quiet = subprocess.DEVNULL  # criu saves no file of the host's, as a log would be
    command = ours.command("run", "--detach", "--bundle", bundle, name)
    subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=100, check=True)
    wait_until(lambda: count(ours, name) > 3, "it counts")
    return name


def count(runtime: Runtime, name: str) -> int:
    pid = runtime.state(name)["pid"]
    try:
        return int(Path(f"/proc/{pid}/root/run/count").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def log(place: Path) -> str:
    found = sorted(place.glob("**/*.log"))
    return found[-1].read_text()[-3000:] if found else "no log"


def test_a_saved_container_goes_on_counting(
    ours: Runtime, bundle: Bundle, counting: str, criu: Path, place: Path
) -> None:
    images = place / "images"
    saved = ours("checkpoint", "--image-path", images, counting, options=["--criu", os.fspath(criu)])
    assert saved.code == 0, saved.err + log(place)
    assert ours("state", counting).error == "container does not exist"
    assert (images / "descriptors.json").exists()
    errors = place / "errors"
    with errors.open("w") as err:
        restored = subprocess.run(
            [
                *ours.command(), "--criu", criu, "restore", "--detach", "--image-path", images,
                "--bundle", bundle, "--pid-file", place / "pid", counting,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, timeout=100, check=False,
        )  # fmt: skip
    assert restored.returncode == 0, errors.read_text() + log(place)
    assert ours.status(counting) == "running"
    assert ours.state(counting)["pid"] == int((place / "pid").read_text())
    before = count(ours, counting)
    assert before > 3
    wait_until(lambda: count(ours, counting) > before, "it goes on counting")
    assert ours("exec", counting, "cat", "/run/count").code == 0
    assert ours("delete", "--force", counting).code == 0


def test_a_container_may_go_on_while_it_is_saved(
    ours: Runtime, counting: str, criu: Path, place: Path
) -> None:
    words = ("checkpoint", "--leave-running", "--image-path", place / "images", "--work-path", place / "work")
    saved = ours(*words, counting, options=["--criu", os.fspath(criu)])
    assert saved.code == 0, saved.err + log(place)
    assert (place / "work/dump.log").exists()
    before = count(ours, counting)
    wait_until(lambda: count(ours, counting) > before, "it goes on counting")


def test_memory_is_saved_before_the_rest(ours: Runtime, counting: str, criu: Path, place: Path) -> None:
    options = ["--criu", os.fspath(criu)]
    before = ours("checkpoint", "--pre-dump", "--image-path", place / "images/1", counting, options=options)
    if "missing features" in before.error:
        pytest.skip("this kernel tracks no memory")
    assert before.code == 0, before.err + log(place)
    assert ours.status(counting) == "running"
    words = ("checkpoint", "--parent-path", "../1", "--image-path", place / "images/2", counting)
    saved = ours(*words, options=options)
    assert saved.code == 0, saved.err + log(place)
    assert (place / "images/2/parent").is_symlink()
