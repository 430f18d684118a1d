"""Boot the virtual machine and run tests in it.

python -m tools.vm [ARGUMENTS FOR PYTEST]     the tests of cgroup v2, or others
"""

from __future__ import annotations

import argparse
import shlex
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

HERE = Path(__file__).parent


def run(options: argparse.Namespace, pytest: Sequence[str]) -> int:
    """Fetch what is missing, build the initramfs, boot it; returns pytest's exit code."""
    peers.ensure(content.PEERS)
    peers.ensure(machine.VM, peers.GROUPS["vm"])
    with tempfile.TemporaryDirectory(prefix="cw-vm-") as folder:
        initrd = Path(folder, "initrd")
        start = time.monotonic()
        init = (HERE / "init").read_text().replace("@PROJECT@", str(content.PROJECT))
        with initrd.open("wb") as output:
            content.write(output, machine.modules(), init.replace("@PYTEST@", shlex.join(pytest)).encode())
        built = time.monotonic()
        print(f"vm: made {initrd.stat().st_size >> 20} MiB in {built - start:.0f} s, booting", flush=True)
        code = machine.run(initrd, options.memory, options.cpus, options.accel, options.timeout)
        print(f"vm: exit code {code} after {time.monotonic() - built:.0f} s")
        return code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vm", description="Run tests on a kernel with cgroup v2 alone.")
    parser.add_argument("--memory", type=int, default=3072, help="MiB (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds (default: %(default)s)")
    parser.add_argument(
        "--accel", default="tcg,thread=multi", help="qemu's accelerator, e.g. kvm (default: %(default)s)"
    )
    options, pytest = parser.parse_known_args(argv)
    try:
        return run(options, [word for word in pytest if word != "--"] or TESTS)
    except (machine.VmError, peers.PeersError) as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
