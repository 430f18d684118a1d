"""Two processors that know the instructions of the trampoline and no others, and a kernel for them."""

from __future__ import annotations

import struct
from typing import Final

MASK: Final = (1 << 64) - 1
STACK: Final = 0x7FF0_0000
HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _packed(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


class Machine:
    """Memory, and a kernel that notes the calls and answers with what the test has prepared."""

    def __init__(self, image: bytes, argv: list[bytes], answers: dict[int, list[int]]) -> None:
        header = HEADER.unpack_from(image)
        self.entry = header[4]
        load = PROGRAM_HEADER.unpack_from(image, header[5])
        assert load[:2] == (1, 5)  # readable, executable, and not writable
        self.segments = {load[3]: image}
        self.answers = answers
        self.calls: list[tuple[int, list[int]]] = []
        self.said = b""
        self.status: int | None = None
        strings, pointers = b"", []
        for word in argv:
            pointers.append(STACK + 0x1000 + len(strings))
            strings += word + b"\0"
        words = [len(argv), *pointers, 0, STACK + 0x1000 + len(strings), 0]
        self.segments[STACK] = _packed(words).ljust(0x1000, b"\0") + strings + b"A=1\0" + bytes(8)

    def read(self, address: int, count: int) -> bytes:
        for start, data in self.segments.items():
            if start <= address and address + count <= start + len(data):
                return data[address - start : address - start + count]
        raise AssertionError(f"no memory at {address:#x}")

    def number(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, address: int) -> bytes:
        found = b""
        while (byte := self.read(address + len(found), 1)) != b"\0":
            found += byte
        return found

    def strings(self, address: int) -> list[bytes]:
        found = []
        while pointer := self.number(address):
            found.append(self.text(pointer))
            address += 8
        return found

    def call(self, names: dict[int, str], number: int, arguments: list[int]) -> int:
        """A system call; `names` knows those of the trampoline's own."""
        name = names.get(number)
        if name == "exit":
            self.status = arguments[0]
            return 0
        if name == "write" and arguments[0] == 2:
            self.said += self.read(arguments[1], arguments[2])
            return arguments[2]
        self.calls.append((number, arguments))
        return self.answers.get(number, [0]).pop(0)


def run_x86_64(machine: Machine) -> None:  # noqa: C901  # a case an instruction
    """The instructions that the code is made of, and no others."""
    names = {1: "write", 231: "exit", 59: "execve"}
    registers = dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r10", "r12", "r13"), 0)
    pc, sign, zero, carry, returns = machine.entry, False, False, False, [0]
    loads = {
        b"\x48\x8b\x45": ("rax", "rbp"), b"\x48\x8b\x7b": ("rdi", "rbx"), b"\x48\x8b\x73": ("rsi", "rbx"),
        b"\x48\x8b\x53": ("rdx", "rbx"), b"\x4c\x8b\x53": ("r10", "rbx"), b"\x4c\x8b\x43": ("r8", "rbx"),
        b"\x48\x8b\x7d": ("rdi", "rbp"), b"\x48\x8b\x75": ("rsi", "rbp"),
    }  # fmt: skip
    immediate = {0xBB: "rbx", 0xB8: "rax", 0xBF: "rdi"}

    def compare(first: int, second: int, bits: int = 64) -> None:
        nonlocal sign, zero, carry
        mask = (1 << bits) - 1
        first, second = first & mask, second & mask
        sign, zero, carry = bool((first - second) >> (bits - 1) & 1), first == second, first < second

    for _ in range(3000):
        code = machine.read(pc, 10)
        three, four = code[:3], code[:4]
        if three == b"\x48\x89\xe5":
            registers["rbp"], pc = STACK, pc + 3
        elif three == b"\x45\x31\xed":
            registers["r13"], pc = 0, pc + 3
        elif four == b"\x48\x83\x7d\x00":
            compare(machine.number(registers["rbp"]), code[4])
            pc += 5
        elif three == b"\x48\x83\x7b":
            compare(machine.number(registers["rbx"] + code[3]), code[4])
            pc += 5
        elif four == b"\x48\x83\x3b\x00":
            compare(machine.number(registers["rbx"]), 0)
            pc += 4
        elif three in loads:
            target, base = loads[three]
            registers[target], pc = machine.number(registers[base] + code[3]), pc + 4
        elif three == b"\x48\x8b\x03":
            registers["rax"], pc = machine.number(registers["rbx"]), pc + 3
        elif code[:2] == b"\x48\xb9":
            registers["rcx"], pc = int.from_bytes(code[2:10], "little"), pc + 10
        elif three == b"\x48\x39\x08":
            compare(machine.number(registers["rax"]), registers["rcx"])
            pc += 3
        elif three == b"\x48\x83\xff":
            compare(registers["rdi"], code[3] - 256)
            pc += 4
        elif four == b"\x49\x0f\x44\xfd":
            registers["rdi"], pc = registers["r13"] if zero else registers["rdi"], pc + 4
        elif three == b"\x48\x85\xc0":
            compare(registers["rax"], 0)
            pc += 3
        elif three == b"\x49\x89\xc5":
            registers["r13"], pc = registers["rax"], pc + 3
        elif four == b"\x48\x83\xc3\x40":
            registers["rbx"], pc = registers["rbx"] + 64, pc + 4
        elif four == b"\x48\x8d\x75\x18":
            registers["rsi"], pc = registers["rbp"] + 24, pc + 4
        elif code[:5] == b"\x48\x8d\x54\xc5\x10":
            registers["rdx"], pc = registers["rbp"] + 8 * registers["rax"] + 16, pc + 5
        elif three == b"\x48\xc7\xc0":
            registers["rax"], pc = struct.unpack_from("<i", code, 3)[0] & MASK, pc + 7
        elif code[:2] == b"\xf7\xd8":
            registers["rax"], pc = -registers["rax"] & 0xFFFFFFFF, pc + 2
        elif code[0] == 0x3D:
            compare(registers["rax"], struct.unpack_from("<I", code, 1)[0], 32)
            pc += 5
        elif code[:2] == b"\x31\xc0":
            registers["rax"], pc = 0, pc + 2
        elif code[:2] == b"\x31\xd2":
            registers["rdx"], pc = 0, pc + 2
        elif three == b"\xc1\xe0\x06":
            registers["rax"], pc = registers["rax"] << 6, pc + 3
        elif code[0] == 0x05:
            registers["rax"], pc = registers["rax"] + struct.unpack_from("<I", code, 1)[0], pc + 5
        elif three == b"\x49\x89\xc4":
            registers["r12"], pc = registers["rax"], pc + 3
        elif four == b"\x80\x3c\x16\x00":
            compare(machine.read(registers["rsi"] + registers["rdx"], 1)[0], 0)
            pc += 4
        elif code[:2] == b"\xff\xc2":
            registers["rdx"], pc = registers["rdx"] + 1, pc + 2
        elif code[:5] == b"\x49\x8d\x74\x24\x01":
            registers["rsi"], pc = registers["r12"] + 1, pc + 5
        elif code[:5] == b"\x41\x0f\xb6\x14\x24":
            registers["rdx"], pc = machine.read(registers["r12"], 1)[0], pc + 5
        elif code[0] in immediate:
            registers[immediate[code[0]]], pc = struct.unpack_from("<I", code, 1)[0], pc + 5
        elif code[:2] == b"\x0f\x05":
            arguments = [registers[name] for name in ("rdi", "rsi", "rdx", "r10", "r8")]
            registers["rax"], pc = machine.call(names, registers["rax"], arguments) & MASK, pc + 2
            if machine.status is not None:
                return
        elif code[0] == 0xE8:
            returns.append(pc + 5)
            pc += 5 + struct.unpack_from("<i", code, 1)[0]
        elif code[0] == 0xC3:
            pc = returns.pop()
        elif code[0] == 0xE9:
            pc += 5 + struct.unpack_from("<i", code, 1)[0]
        elif code[0] == 0x0F:
            taken = {
                0x82: carry, 0x84: zero, 0x85: not zero, 0x86: carry or zero, 0x88: sign, 0x89: not sign,
            }[code[1]]  # fmt: skip
            pc += 6 + (struct.unpack_from("<i", code, 2)[0] if taken else 0)
        else:
            raise AssertionError(f"unknown instruction {code.hex()} at {pc:#x}")
    raise AssertionError("does not end")


def run_aarch64(machine: Machine) -> None:  # noqa: C901  # a case an instruction
    """The instructions that the code is made of, decoded by their fixed bits."""
    names = {64: "write", 94: "exit", 221: "execve"}
    registers, pc = [0] * 31 + [STACK], machine.entry
    less, zero, carry = False, False, False

    def compare(first: int, second: int) -> None:
        nonlocal less, zero, carry
        less, zero, carry = signed(first & MASK) < signed(second & MASK), first == second, first >= second

    for _ in range(3000):
        (word,) = struct.unpack("<I", machine.read(pc, 4))
        target, source, other = word & 31, word >> 5 & 31, word >> 16 & 31
        value, immediate = word >> 5 & 0xFFFF, word >> 10 & 0xFFF
        pc += 4
        if word >> 21 == 0b11010010100:  # movz
            registers[target] = value
        elif word >> 23 == 0b111100101:  # movk
            shift = 16 * (word >> 21 & 3)
            registers[target] = registers[target] & ~(0xFFFF << shift) | value << shift
        elif word == 0xD4000001:  # svc #0
            registers[0] = machine.call(names, registers[8], registers[:5]) & MASK
            if machine.status is not None:
                return
        elif word >> 22 == 0b1001000100:  # add, immediate
            registers[target] = registers[source] + immediate & MASK
        elif word & 0xFFE00000 == 0x8B000000:  # add, shifted register
            registers[target] = registers[source] + (registers[other] << (word >> 10 & 63)) & MASK
        elif word & 0xFFE0FFE0 == 0xCB0003E0:  # neg
            registers[target] = -registers[other] & MASK
        elif word & 0xFFC0001F == 0xF100001F:  # cmp, immediate
            compare(registers[source], immediate)
        elif word & 0xFFC0001F == 0xB100001F:  # cmn, immediate
            compare(registers[source], -immediate & MASK)
        elif word & 0xFFE0FC1F == 0xEB00001F:  # cmp, register
            compare(registers[source], registers[other])
        elif word & 0xFFE00C00 == 0x9A800000:  # csel; eq is all that is used
            assert word >> 12 & 15 == 0
            registers[target] = registers[source] if zero else registers[other]
        elif word >> 22 == 0b1111100101:  # ldr
            registers[target] = machine.number(registers[source] + 8 * immediate)
        elif word >> 22 == 0b1010100101:  # ldp
            at = registers[source] + 8 * (word >> 15 & 127)
            registers[target], registers[word >> 10 & 31] = machine.number(at), machine.number(at + 8)
        elif word >> 22 == 0b0011100101:  # ldrb
            registers[target] = machine.read(registers[source] + immediate, 1)[0]
        elif word & 0xFFE0FC00 == 0x38606800:  # ldrb, register
            registers[target] = machine.read(registers[source] + registers[other], 1)[0]
        elif word >> 24 == 0x54:  # b.cond
            taken = {
                0x0: zero, 0x1: not zero, 0x3: not carry, 0x9: not carry or zero, 0xA: not less, 0xB: less,
            }[word & 15]  # fmt: skip
            distance = (word >> 5 & 0x7FFFF) - ((word >> 23 & 1) << 19)
            pc += 4 * (distance - 1) if taken else 0
        elif word >> 26 in (0b000101, 0b100101):  # b, bl
            if word >> 31:
                registers[30] = pc
            pc += 4 * ((word & 0x3FFFFFF) - ((word >> 25 & 1) << 26) - 1)
        elif word == 0xD65F03C0:  # ret
            pc = registers[30]
        else:
            raise AssertionError(f"unknown instruction {word:#010x} at {pc - 4:#x}")
    raise AssertionError("does not end")
