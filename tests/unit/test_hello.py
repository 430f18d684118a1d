"""hello-world: programs that run, machine code that means what it should, digests that never change."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.oci.image_spec import Platform
from cutaway.registry.hello import elf, image, machine_code
from cutaway.registry.hello.image import AMD64, ARM64

MASK = (1 << 64) - 1

# The index's digest: it changes with the message or the machine code and with nothing else.
INDEX = "sha256:af9cc4f20c94623ce211aa1ebbc286049ceb3c839768823619a9489cf5d7a5a6"


class Kernel:
    """Answers the programs' two system calls; `takes` is what each write accepts, or an error."""

    def __init__(self, memory: dict[int, bytes], takes: list[int]) -> None:
        self.memory = memory
        self.takes = takes
        self.output = b""
        self.status: int | None = None

    def write(self, descriptor: int, address: int, count: int) -> int:
        assert descriptor == 1
        taken = self.takes.pop(0) if self.takes else count
        taken = min(taken, count)
        if taken > 0:
            self.output += self.read(address, taken)
        return taken

    def read(self, address: int, count: int) -> bytes:
        for start, data in self.memory.items():
            if start <= address and address + count <= start + len(data):
                return data[address - start : address - start + count]
        raise AssertionError(f"no memory at {address:#x}")


def load(program: bytes) -> tuple[int, dict[int, bytes], dict[int, int]]:
    """Entry, segments and their flags as the kernel would map them."""
    header = elf.HEADER.unpack_from(program)
    entry, offset, size, count = header[4], header[5], header[9], header[10]
    memory, flags = {}, {}
    for number in range(count):
        kind, flag, start, address, _, in_file, in_memory, align = elf.PROGRAM_HEADER.unpack_from(
            program, offset + number * size
        )
        if kind == 1:
            assert in_file == in_memory and start % align == address % align
            memory[address] = program[start : start + in_file]
            flags[address] = flag
    return entry, memory, flags


def run_x86_64(program: bytes, takes: list[int]) -> Kernel:
    """Run the program on the few instructions it is made of."""
    pc, memory, _ = load(program)
    kernel, zero, less = Kernel(memory, takes), False, False
    registers = {"rax": 0, "rdi": 0, "rsi": 0, "rdx": 0}
    immediate = {0xB8: "rax", 0xBF: "rdi", 0xBE: "rsi", 0xBA: "rdx"}
    for _ in range(1000):
        code = memory[min(memory)][pc - min(memory) :]
        if code[0] in immediate:
            registers[immediate[code[0]]] = struct.unpack_from("<I", code, 1)[0]
            pc += 5
        elif code[:2] == b"\x0f\x05":
            pc += 2
            if registers["rax"] == machine_code.X86_64_EXIT_GROUP:
                kernel.status = registers["rdi"]
                return kernel
            registers["rax"] = kernel.write(registers["rdi"], registers["rsi"], registers["rdx"])
        elif code[:3] == b"\x48\x85\xc0":
            zero, less, pc = registers["rax"] == 0, registers["rax"] < 0, pc + 3
        elif code[:3] == b"\x48\x01\xc6":
            registers["rsi"], pc = registers["rsi"] + registers["rax"], pc + 3
        elif code[:3] == b"\x48\x29\xc2":
            registers["rdx"], pc = registers["rdx"] - registers["rax"], pc + 3
            zero = registers["rdx"] == 0
        elif code[:2] == b"\x31\xff":
            registers["rdi"], pc = 0, pc + 2
        elif code[0] in (0x7E, 0x75):
            taken = (zero or less) if code[0] == 0x7E else not zero
            pc += 2 + (struct.unpack_from("<b", code, 1)[0] if taken else 0)
        else:
            raise AssertionError(f"unknown instruction {code.hex()} at {pc:#x}")
    raise AssertionError("does not end")


def run_aarch64(program: bytes, takes: list[int]) -> Kernel:
    """Run the program on the few instructions it is made of, decoded by their fixed bits."""
    pc, memory, _ = load(program)
    kernel, registers, zero, less = Kernel(memory, takes), [0] * 31, False, False
    for _ in range(1000):
        (word,) = struct.unpack("<I", kernel.read(pc, 4))
        target, source, value = word & 31, word >> 5 & 31, word >> 5 & 0xFFFF
        pc += 4
        if word >> 21 == 0b11010010100:  # movz, 64 bit, no shift
            registers[target] = value
        elif word >> 21 == 0b11110010101:  # movk, 64 bit, lsl 16
            registers[target] = registers[target] & ~0xFFFF0000 | value << 16
        elif word == 0xD4000001:  # svc #0
            if registers[8] == machine_code.AARCH64_EXIT_GROUP:
                kernel.status = registers[0]
                return kernel
            assert registers[8] == machine_code.AARCH64_WRITE
            registers[0] = kernel.write(*registers[:3])
        elif word & 0xFFC0001F == 0xF100001F:  # cmp xN, #imm12
            difference = registers[source] - (word >> 10 & 0xFFF)
            zero, less = difference == 0, difference < 0
        elif word & 0xFFE0FC00 == 0x8B000000:  # add xD, xN, xM
            registers[target] = registers[source] + registers[word >> 16 & 31] & MASK
        elif word & 0xFFE0FC00 == 0xEB000000:  # subs xD, xN, xM
            difference = registers[source] - registers[word >> 16 & 31]
            registers[target], zero, less = difference & MASK, difference == 0, difference < 0
        elif word >> 24 == 0x54:  # b.cond
            condition = {0x1: not zero, 0xD: zero or less}[word & 0xF]
            distance = (word >> 5 & 0x7FFFF) - ((word >> 23 & 1) << 19)
            pc += (distance - 1) * 4 if condition else 0
        else:
            raise AssertionError(f"unknown instruction {word:#010x} at {pc - 4:#x}")
    raise AssertionError("does not end")


Run = Callable[[bytes, list[int]], Kernel]

MACHINES = [(AMD64, run_x86_64), (ARM64, run_aarch64)]


@pytest.mark.parametrize(("platform", "run"), MACHINES)
@pytest.mark.parametrize("takes", [[], [1], [7, 100, 1000]])
def test_program_writes_all_of_its_message_and_succeeds(
    platform: Platform, run: Run, takes: list[int]
) -> None:
    kernel = run(image.program(platform), list(takes))
    assert kernel.output == image.message(platform)
    assert kernel.status == 0


@pytest.mark.parametrize(("platform", "run"), MACHINES)
@pytest.mark.parametrize("takes", [[-9], [0], [5, -32]])
def test_program_fails_when_it_cannot_write(platform: Platform, run: Run, takes: list[int]) -> None:
    assert run(image.program(platform), list(takes)).status == 1


@pytest.mark.parametrize("platform", [AMD64, ARM64])
def test_segments_are_not_writable_and_the_message_is_not_executable(platform: Platform) -> None:
    entry, memory, flags = load(image.program(platform))
    text, data = sorted(memory)
    assert text <= entry < text + len(memory[text])
    assert (flags[text], flags[data]) == (5, 4)
    assert memory[data] == image.message(platform)
    assert data // 0x10000 != text // 0x10000


def test_program_runs_here(tmp_path: Path) -> None:
    platform = {"x86_64": AMD64, "aarch64": ARM64}[os.uname().machine]
    path = tmp_path / "hello"
    path.write_bytes(image.program(platform))
    path.chmod(0o755)
    assert subprocess.run([path], capture_output=True, check=True).stdout == image.message(platform)


def test_message_greets_and_names_every_part() -> None:
    text = image.message(AMD64).decode()
    assert text.startswith("Hello from Cutaway!\n")
    for word in (
        "Engine API",
        "registry",
        "linux/amd64",
        "containerd",
        "snapshot",
        "shim",
        "OCI runtime",
        "kernel",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 92
    assert b"linux/arm64" in image.message(ARM64)


def test_image_is_the_same_to_the_byte_everywhere() -> None:
    made = image.build()
    assert made.index.digest == INDEX
    assert made.index.digest == image.build().index.digest


def test_documents_fit_together() -> None:
    made = image.build()
    blobs = {blob.digest: blob.data for blob in (*made.blobs, *made.manifests)}
    entries = json.loads(made.index.data)["manifests"]
    assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
    for entry in entries:
        manifest = json.loads(blobs[entry["digest"]])
        config = json.loads(blobs[manifest["config"]["digest"]])
        archive = gzip.decompress(blobs[manifest["layers"][0]["digest"]])
        assert config["rootfs"]["diff_ids"] == [image._digest(archive)]
        assert config["architecture"] == entry["platform"]["architecture"]
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            (member,) = opened.getmembers()
        assert (member.name, member.mode, member.mtime, member.uid) == ("hello", 0o755, 0, 0)
