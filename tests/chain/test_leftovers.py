"""What fails leaves nothing: the machine is compared before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chain.conftest import Chain
from support.leftovers import Leftovers

pytestmark = [pytest.mark.root, pytest.mark.peers]


def failed_pull(chain: Chain) -> None:
    failed = chain.cutaway("pull", f"{chain.registry.host}/library/nothing", check=False)
    assert failed.returncode == 1 and "nothing" in failed.stderr


def failed_create(chain: Chain) -> None:
    failed = chain.cutaway("create", "--cap-add", "FLY", chain.busybox, "true", check=False)
    assert failed.returncode == 1
    assert failed.stderr == 'Error response from daemon: invalid CapAdd: unknown capability: "CAP_FLY"\n'


def failed_start(chain: Chain) -> None:
    failed = chain.cutaway("run", "--rm", chain.busybox, "no-such-program", check=False)
    assert failed.returncode == 127
    assert 'exec: "no-such-program": executable file not found in $PATH' in failed.stderr


def not_executable(chain: Chain) -> None:
    failed = chain.cutaway("run", "--rm", chain.busybox, "/etc/passwd", check=False)
    assert failed.returncode == 126 and "permission denied" in failed.stderr


def clean_run(chain: Chain) -> None:
    done = chain.cutaway("run", "--rm", chain.busybox, "sh", "-c", "exit 7", check=False)
    assert done.returncode == 7


def network_of(chain: Chain) -> list[str]:
    """Links of the stack's network namespace."""
    table = chain.engine.netns.call(Path("/proc/thread-self/net/dev").read_text)
    return [line.split(":")[0].strip() for line in table.splitlines()[2:]]


def held_by(chain: Chain) -> tuple[list[str], ...]:
    """What the daemons know of: containers, snapshots, content, tasks."""
    ctr = chain.containerd.ctr
    return (
        chain.cutaway("ps", "-aq").stdout.splitlines(),
        ctr("snapshots", "ls", namespace="moby").stdout.splitlines(),
        ctr("containers", "ls", "-q", namespace="moby").stdout.splitlines(),
        ctr("task", "ls", "-q", namespace="moby").stdout.splitlines(),
        ctr("images", "ls", "-q", namespace="moby").stdout.splitlines(),
    )


@pytest.mark.parametrize("case", [failed_pull, failed_create, failed_start, not_executable, clean_run])
def test_nothing_is_left(case: Callable[[Chain], None], chain: Chain) -> None:
    chain.cutaway("run", "--rm", chain.busybox, "true")  # image, bridge and zygote are there from now on
    folder = chain.engine.folder.parent
    before, links, held = Leftovers.snapshot(folder), network_of(chain), held_by(chain)
    case(chain)
    assert not (left := Leftovers.snapshot(folder).since(before)), str(left)
    assert network_of(chain) == links
    assert held_by(chain) == held
