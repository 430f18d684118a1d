"""`checkpoint` and `restore` with the real criu: on a kernel that it can work with (`make test-vm`)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runc.bundles import SECONDS, Bundle, Result, Runtime
from support.criu import working_criu
from support.peers import PEERS
from support.process import wait_until

pytestmark = [pytest.mark.root, pytest.mark.peers]

COUNT = "n=0; while :; do n=$((n+1)); echo $n > /run/count; sleep 0.1; done"


@pytest.fixture
def criu() -> Path:
    return working_criu()


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, base_dir: Path) -> None:
    """runc leaves criu's logs where it is called."""
    monkeypatch.chdir(base_dir)


@pytest.fixture
def counting(ours: Runtime, bundle: Bundle, name: str, criu: Path) -> str:
    """A container that counts, in a file on a tmpfs of its own."""
    bundle.linux["namespaces"] = [each for each in bundle.linux["namespaces"] if each["type"] != "network"]
    return start_counting(ours, bundle, name)


def start_counting(ours: Runtime, bundle: Bundle, name: str) -> str:
    bundle.mount("/run", "tmpfs", "tmpfs", "nosuid", "nodev")
    (bundle.rootfs / "run").mkdir()
    bundle.shell(COUNT)
    quiet = subprocess.DEVNULL  # criu saves no file of the host's, as a log would be
    command = ours.command("run", "--detach", "--bundle", bundle, name)
    subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=SECONDS, check=True)
    wait_until(lambda: count(ours, name) > 3, "it counts")
    return name


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """What criu calls for a container with a network: iptables, to hold its packets back."""
    monkeypatch.setenv("PATH", f"{PEERS / 'bin'}:{os.environ['PATH']}")


def count(runtime: Runtime, name: str) -> int:
    pid = runtime.state(name)["pid"]
    try:
        return int(Path(f"/proc/{pid}/root/run/count").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def log(place: Path) -> str:
    found = sorted(place.glob("**/*.log"))
    return found[-1].read_text()[-3000:] if found else "no log"


def restore(
    runtime: Runtime, criu: Path, images: Path, bundle: Bundle, name: str, *words: str | os.PathLike[str]
) -> Result:
    options = ("restore", "--detach", "--image-path", images, "--bundle", bundle)
    return runtime.detached("--criu", criu, *options, *words, name)


def test_a_saved_container_goes_on_counting(
    ours: Runtime, bundle: Bundle, counting: str, criu: Path, place: Path
) -> None:
    images = place / "images"
    saved = ours("checkpoint", "--image-path", images, counting, options=["--criu", os.fspath(criu)])
    assert saved.code == 0, saved.err + log(place)
    assert ours("state", counting).error == "container does not exist"
    assert (images / "descriptors.json").exists()
    restored = restore(ours, criu, images, bundle, counting, "--pid-file", place / "pid")
    assert restored.code == 0, restored.err + log(place)
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


def test_a_container_with_a_network_of_its_own(
    ours: Runtime, bundle: Bundle, name: str, criu: Path, place: Path, tools: None
) -> None:
    """What is in it the runtime has not made, and does not save: the network comes back empty."""
    start_counting(ours, bundle, name)
    images = place / "images"
    saved = ours("checkpoint", "--image-path", images, name, options=["--criu", os.fspath(criu)])
    assert saved.code == 0, saved.err + log(place)
    restored = restore(ours, criu, images, bundle, name)
    assert restored.code == 0, restored.err + log(place)
    before = count(ours, name)
    assert before > 3
    wait_until(lambda: count(ours, name) > before, "it goes on counting")
    pid = ours.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_restored_in_the_foreground(
    ours: Runtime, bundle: Bundle, counting: str, criu: Path, place: Path
) -> None:
    """`restore` waits, gives the program's exit code, and removes the container."""
    images = place / "images"
    saved = ours("checkpoint", "--image-path", images, counting, options=["--criu", os.fspath(criu)])
    assert saved.code == 0, saved.err + log(place)
    with (place / "errors").open("w+") as errors:
        command = ours.command(
            "--criu", criu, "restore", "--image-path", images, "--bundle", bundle, counting
        )
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=errors) as process:
            wait_until(
                lambda: process.poll() is not None or counting in ours("list", "--quiet").out.split(),
                "it is restored",
            )
            assert process.poll() is None, errors.read() + log(place)
            wait_until(lambda: ours.status(counting) == "running", "it runs")
            before = count(ours, counting)
            wait_until(lambda: count(ours, counting) > before, "it goes on counting")
            assert ours("kill", counting, "KILL").code == 0
            assert process.wait(SECONDS) == 137
    assert ours("list", "--quiet").out == ""
