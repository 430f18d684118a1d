"""The smallest honest ELF executable: two loadable segments, code and read-only data, no linker.

    file offset 0   ELF header, three program headers, code      mapped readable and executable
    then            the message                                  mapped read-only, 64 KiB higher

The third program header asks for a stack that is not executable. There are no sections: the kernel reads
only program headers. Both segments may lie in the same file page, because each is mapped at an address
congruent to its offset. Source: elf(5), System V ABI.
"""

from __future__ import annotations

import struct
from typing import Final

BASE: Final = 0x400000
ALIGN: Final = 0x10000  # the largest page size of the machines we write for
HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
PROGRAM_HEADERS: Final = 3
CODE_OFFSET: Final = HEADER.size + PROGRAM_HEADERS * PROGRAM_HEADER.size
ENTRY: Final = BASE + CODE_OFFSET

MACHINE_X86_64: Final = 62
MACHINE_AARCH64: Final = 183

_IDENT: Final = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)  # 64-bit, little-endian, version 1, System V
_EXEC: Final = 2
_LOAD, _GNU_STACK = 1, 0x6474E551
_X, _W, _R = 1, 2, 4


def data_address(code_size: int) -> int:
    """Where the data of a program with this much code will be in memory."""
    return BASE + ALIGN + CODE_OFFSET + code_size


def executable(machine: int, code: bytes, data: bytes) -> bytes:
    """A static executable that starts at the first byte of `code`."""
    text_end = CODE_OFFSET + len(code)
    header = HEADER.pack(
        _IDENT, _EXEC, machine, 1, ENTRY, HEADER.size, 0, 0,
        HEADER.size, PROGRAM_HEADER.size, PROGRAM_HEADERS, 0, 0, 0,
    )  # fmt: skip
    address = data_address(len(code))
    programs = (
        PROGRAM_HEADER.pack(_LOAD, _R | _X, 0, BASE, BASE, text_end, text_end, ALIGN),
        PROGRAM_HEADER.pack(_LOAD, _R, text_end, address, address, len(data), len(data), ALIGN),
        PROGRAM_HEADER.pack(_GNU_STACK, _R | _W, 0, 0, 0, 0, 0, 16),
    )
    return header + b"".join(programs) + code + data
