"""qemu with a kernel and an initramfs, seen through the first serial port."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from tools.vm.content import PEERS

VM = PEERS / "vm"
QEMU = VM / "bin/qemu-system-x86_64"

# The guest prints these on lines of their own: what is between them is shown, and the code is the result.
BEGIN = "cutaway-vm: begin"
END = re.compile(r"^cutaway-vm: exit code (\d+)$", re.M)
TAIL = 60  # lines of the console that a failure shows

# The clock is the HPET, the scheduler's as well. How fast the processor's counter (TSC) runs the kernel has
# to measure as it starts; in a machine that had to wait for its turn meanwhile, time then went by many times
# too fast.
KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=-1 loglevel=2 rdinit=/init mitigations=off clocksource=hpet tsc=unstable"
)


class VmError(Exception):
    """Something that the user must know; its text may have lines of the console."""


def modules() -> Path:
    """The folder of the guest kernel's modules."""
    return one("root/lib/modules/*")


def one(pattern: str) -> Path:
    found = sorted(VM.glob(pattern))
    if not found:
        raise VmError(f"{VM}/{pattern} is not there; make it with: python tools/peers.py --group vm")
    return found[-1]


def command(initrd: Path, memory: int, cpus: int, accelerator: str) -> list[str]:
    """qemu's command line. The machine has no disk and no network, and ends instead of rebooting."""
    return [
        "nice", "-n", "10", os.fspath(QEMU),
        "-accel", accelerator, "-cpu", "max", "-smp", str(cpus), "-m", str(memory),
        "-L", os.fspath(VM / "root/usr/share/qemu"), "-L", os.fspath(VM / "root/usr/share/seabios"),
        "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-nic", "none",
        "-kernel", os.fspath(one("root/boot/vmlinuz-*")), "-initrd", os.fspath(initrd),
        "-append", KERNEL_ARGUMENTS,
    ]  # fmt: skip


def run(initrd: Path, memory: int, cpus: int, accelerator: str, timeout: float) -> int:
    """Boot, show what the tests print, and return their exit code.

    Raises `VmError` with the console's end when none came, or not within `timeout` seconds.
    """
    process = subprocess.Popen(
        command(initrd, memory, cpus, accelerator),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        text = follow(process, time.monotonic() + timeout)
    finally:
        process.kill()
        process.wait()
    end = END.search(text)
    if end is None:
        tail = "\n".join(text.splitlines()[-TAIL:])
        raise VmError(f"the machine ended, or ran out of {timeout:g} s, before its tests:\n{tail}")
    return int(end[1])


def follow(process: subprocess.Popen[bytes], deadline: float) -> str:
    """The console's text up to the machine's end or a time, printed as it comes once the tests run."""
    assert process.stdout is not None
    console = process.stdout.fileno()
    text = ""
    shown = -1
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([console], [], [], left)
        chunk = os.read(console, 65536) if ready else b""
        if not chunk:
            break
        text += chunk.decode(errors="replace").replace("\r", "")
        if shown < 0 and BEGIN in text:
            shown = text.index(BEGIN) + len(BEGIN) + 1
        if shown >= 0:
            sys.stdout.write(text[shown:])
            sys.stdout.flush()
            shown = max(shown, len(text))
        if END.search(text):
            break
    return text
