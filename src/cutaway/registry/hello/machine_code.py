"""One program, assembled by hand for two machines: write the message, all of it, then exit.

    again:  n = write(1, message, left)
            if n <= 0: exit(1)
            message += n; left -= n
            if left: goto again
            exit(0)

A pipe may take less than all at once, hence the loop. Sources: Intel SDM volume 2, Arm ARM (A64 base
instructions), syscall(2) for which registers take what.
"""

from __future__ import annotations

import struct
from typing import Final

X86_64_WRITE, X86_64_EXIT_GROUP = 1, 231
AARCH64_WRITE, AARCH64_EXIT_GROUP = 64, 94
STDOUT: Final = 1


def x86_64(address: int, length: int) -> bytes:
    """x86-64 code for a message of `length` bytes at `address`, which must be below 2^31."""
    start = b"\xbe" + struct.pack("<I", address)  # mov esi, address
    start += b"\xba" + struct.pack("<I", length)  # mov edx, length
    again = b"\xb8" + struct.pack("<I", X86_64_WRITE)  # mov eax, write
    again += b"\xbf" + struct.pack("<I", STDOUT)  # mov edi, 1
    again += b"\x0f\x05"  # syscall
    again += b"\x48\x85\xc0"  # test rax, rax
    success = b"\x31\xff"  # xor edi, edi
    leave = b"\xb8" + struct.pack("<I", X86_64_EXIT_GROUP)  # mov eax, exit_group
    leave += b"\x0f\x05"  # syscall
    fail = b"\xbf" + struct.pack("<I", 1)  # mov edi, 1
    step = b"\x48\x01\xc6"  # add rsi, rax
    step += b"\x48\x29\xc2"  # sub rdx, rax
    # jle over step, the jne after it and the successful end, to the failed one
    again += b"\x7e" + struct.pack("<b", len(step) + 2 + len(success) + len(leave))
    again += step
    again += b"\x75" + struct.pack("<b", -(len(again) + 2))  # jne again
    return start + again + success + leave + fail + leave


def aarch64(address: int, length: int) -> bytes:
    """A64 code for a message of `length` bytes (below 65536) at `address`, which must be below 2^32."""
    words = [
        _movz(1, address & 0xFFFF),
        _movk_high(1, address >> 16),
        _movz(2, length),
        _movz(0, STDOUT),  # again, 3
        _movz(8, AARCH64_WRITE),
        _SVC,
        0xF100001F,  # cmp x0, #0
        _branch_if(_LE, 14 - 7),  # b.le fail
        0x8B000021,  # add x1, x1, x0
        0xEB000042,  # subs x2, x2, x0
        _branch_if(_NE, 3 - 10),  # b.ne again
        _movz(0, 0),
        _movz(8, AARCH64_EXIT_GROUP),
        _SVC,
        _movz(0, 1),  # fail, 14
        _movz(8, AARCH64_EXIT_GROUP),
        _SVC,
    ]
    return struct.pack(f"<{len(words)}I", *words)


_SVC: Final = 0xD4000001  # svc #0
_NE, _LE = 0x1, 0xD


def _movz(register: int, value: int) -> int:
    """movz xR, #value"""
    return 0xD2800000 | value << 5 | register


def _movk_high(register: int, value: int) -> int:
    """movk xR, #value, lsl 16"""
    return 0xF2A00000 | value << 5 | register


def _branch_if(condition: int, words: int) -> int:
    """b.cond to so many words from here."""
    return 0x54000000 | (words & 0x7FFFF) << 5 | condition
