"""Boot the virtual machine and run tests in it.

python -m tools.vm [ARGUMENTS FOR PYTEST]     the tests of cgroup v2, unless the arguments name others
python -m tools.vm --all                      those, and all of the runtime's and the shim's
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools import peers
from tools.vm import content, machine

TESTS = (
    "tests/vm",
    "tests/runc/test_cgroups.py",
    "tests/runc/test_checkpoint.py",
    "tests/chain/test_hello.py",
)
ALL = (*TESTS, "tests/runc", "tests/shim", "tests/attacks")

# Seconds for the tests; the kernel's start and a test's last clean-up come on top.
LIMIT, LIMIT_ALL = 1800, 7200
GRACE = 120

HERE = Path(__file__).parent


def run(options: argparse.Namespace, pytest: Sequence[str]) -> int:
    """Fetch what is missing, build the initramfs, boot it; returns pytest's exit code."""
    timeout = options.timeout or (LIMIT_ALL if options.all else LIMIT)
    peers.ensure(content.PEERS)
    peers.ensure(machine.VM, peers.GROUPS["vm"])
    with tempfile.TemporaryDirectory(prefix="cw-vm-") as folder:
        initrd = Path(folder, "initrd")
        start = time.monotonic()
        with initrd.open("wb") as output:
            content.write(output, machine.modules(), init(pytest, timeout).encode())
        built = time.monotonic()
        print(f"vm: made {initrd.stat().st_size >> 20} MiB in {built - start:.0f} s, booting", flush=True)
        code = machine.run(initrd, options.memory, options.cpus, options.accel, timeout + GRACE)
        used = os.times()
        print(
            f"vm: exit code {code} after {time.monotonic() - built:.0f} s, "
            f"for {used.children_user + used.children_system:.0f} s of processor time"
        )
        return code


def init(pytest: Sequence[str], timeout: float) -> str:
    """The guest's process 1."""
    text = (HERE / "init").read_text()
    values = {"PROJECT": str(content.PROJECT), "SECONDS": f"{timeout:.0f}", "PYTEST": shlex.join(pytest)}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def arguments(words: Sequence[str], tests: Sequence[str]) -> list[str]:
    """pytest's arguments: what the caller has said, and `tests` unless that names any."""
    words = [word for word in words if word != "--"]
    named = any(Path(content.PROJECT, word.partition("::")[0]).exists() for word in words)
    return words if named else [*words, *tests]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vm", description="Run tests on a kernel with cgroup v2 alone.")
    parser.add_argument("--all", action="store_true", help="all tests of the runtime and the shim as well")
    parser.add_argument("--memory", type=int, default=3072, help="MiB (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--timeout", type=float, help=f"seconds (default: {LIMIT}, or {LIMIT_ALL})")
    parser.add_argument(
        "--accel", default="tcg,thread=multi", help="qemu's accelerator, e.g. kvm (default: %(default)s)"
    )
    options, words = parser.parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # qemu and the initramfs go as well
    try:
        return run(options, arguments(words, ALL if options.all else TESTS))
    except (machine.VmError, peers.PeersError) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
