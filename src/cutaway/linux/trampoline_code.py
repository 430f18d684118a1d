"""The trampoline's machine code, assembled by hand for two machines. What it does, in C:

    void _start(void) {                                  // argv = marker, path, the program's own arguments
        if (argc < 3 || memcmp(argv[0], MARKER, 8)) fail(&refused, EACCES);
        long last = 0;
        struct call *call = calls;
        for (; call->number >= 0; call++) {              // struct call: 64 bytes, `trampoline.CALL`
            long first = call->args[0] == PREVIOUS ? last : call->args[0];
            last = syscall(call->number, first, call->args[1], ..., call->args[4]);
            if (last < 0 && call->told_length) fail(call, -last);
        }
        fail(call, -execve(argv[1], argv + 2, envp));
    }
    void fail(struct call *call, unsigned code) {        // texts[code]: 64 bytes, the first is the length
        write(2, call->told, call->told_length);
        if (call->number < 0) write(2, argv[1], strlen(argv[1]));
        write(2, texts[code <= LAST_ERRNO ? code : 0] + 1, texts[...][0]);
        exit_group(1);
    }

Addresses are absolute and below 2^31. Sources: Intel SDM volume 2, Arm ARM (A64 base instructions),
syscall(2) for which registers take what; the kernel leaves all others alone.
"""

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = b"cutaway\0"  # eight bytes, compared as one number
PREVIOUS = -2  # as a first argument: what the call before returned
LAST_ERRNO = 133
TEXT = 64

_EACCES = 13
_FAILED = 1  # exit code


class Addresses:
    """Where the code finds its data."""

    __slots__ = ("calls", "refused", "texts")

    def __init__(self, refused: int, texts: int, calls: int) -> None:
        self.refused = refused
        self.texts = texts
        self.calls = calls


class _Assembly:
    """Instructions in order, with jumps to names that may come later."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str, Callable[[int], bytes]]] = []

    def __call__(self, *parts: bytes) -> None:
        for part in parts:
            self._code += part

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def jump(self, name: str, size: int, encode: "Callable[[int], bytes]") -> None:
        """`encode` makes the instruction, of `size` bytes, from the distance of its start to the label."""
        self._jumps.append((len(self._code), name, encode))
        self._code += bytes(size)

    def finish(self) -> bytes:
        for at, name, encode in self._jumps:
            made = encode(self._labels[name] - at)
            self._code[at : at + len(made)] = made
        return bytes(self._code)


# x86-64: rbp holds the initial stack pointer, rbx the current call, r13 the last result, r12 a text.

_SYSCALL = b"\x0f\x05"
_WRITE, _EXECVE, _EXIT_GROUP = 1, 59, 231
_JUMP, _CALL = b"\xe9", b"\xe8"
_JB, _JNE, _JE, _JS, _JNS, _JBE = (b"\x0f" + bytes((code,)) for code in (0x82, 0x85, 0x84, 0x88, 0x89, 0x86))


def x86_64(at: Addresses) -> bytes:
    """The code for x86-64."""
    asm = _Assembly()

    def go(opcode: bytes, name: str) -> None:
        size = len(opcode) + 4
        asm.jump(name, size, lambda distance: opcode + struct.pack("<i", distance - size))

    asm(b"\x48\x89\xe5")  # mov rbp, rsp
    asm(b"\x45\x31\xed")  # xor r13d, r13d
    asm(b"\x48\x83\x7d\x00\x03")  # cmp qword [rbp], 3          argc
    go(_JB, "refuse")
    asm(b"\x48\x8b\x45\x08")  # mov rax, [rbp+8]                 argv[0]
    asm(b"\x48\xb9", MARKER)  # mov rcx, MARKER
    asm(b"\x48\x39\x08")  # cmp [rax], rcx
    go(_JNE, "refuse")
    asm(b"\xbb", struct.pack("<I", at.calls))  # mov ebx, calls

    asm.label("next")
    asm(b"\x48\x8b\x03")  # mov rax, [rbx]                       number
    asm(b"\x48\x85\xc0")  # test rax, rax
    go(_JS, "execute")
    asm(b"\x48\x8b\x7b\x08")  # mov rdi, [rbx+8]
    asm(b"\x48\x83\xff", struct.pack("<b", PREVIOUS))  # cmp rdi, PREVIOUS
    asm(b"\x49\x0f\x44\xfd")  # cmove rdi, r13
    asm(b"\x48\x8b\x73\x10")  # mov rsi, [rbx+16]
    asm(b"\x48\x8b\x53\x18")  # mov rdx, [rbx+24]
    asm(b"\x4c\x8b\x53\x20")  # mov r10, [rbx+32]
    asm(b"\x4c\x8b\x43\x28")  # mov r8, [rbx+40]
    asm(_SYSCALL)
    asm(b"\x49\x89\xc5")  # mov r13, rax
    asm(b"\x48\x85\xc0")  # test rax, rax
    go(_JNS, "done")
    asm(b"\x48\x83\x7b\x38\x00")  # cmp qword [rbx+56], 0        told_length
    go(_JNE, "fail")
    asm.label("done")
    asm(b"\x48\x83\xc3\x40")  # add rbx, 64
    go(_JUMP, "next")

    asm.label("execute")
    asm(b"\x48\x8b\x7d\x10")  # mov rdi, [rbp+16]                argv[1]
    asm(b"\x48\x8d\x75\x18")  # lea rsi, [rbp+24]                argv + 2
    asm(b"\x48\x8b\x45\x00")  # mov rax, [rbp]                   argc
    asm(b"\x48\x8d\x54\xc5\x10")  # lea rdx, [rbp+rax*8+16]      envp, behind argv's null
    asm(b"\xb8", struct.pack("<I", _EXECVE), _SYSCALL)  # mov eax, execve; syscall
    go(_JUMP, "fail")

    asm.label("refuse")
    asm(b"\xbb", struct.pack("<I", at.refused))  # mov ebx, refused
    asm(b"\x48\xc7\xc0", struct.pack("<i", -_EACCES))  # mov rax, -EACCES

    asm.label("fail")
    asm(b"\xf7\xd8")  # neg eax
    asm(b"\x3d", struct.pack("<I", LAST_ERRNO))  # cmp eax, LAST_ERRNO
    go(_JBE, "known")
    asm(b"\x31\xc0")  # xor eax, eax
    asm.label("known")
    asm(b"\xc1\xe0\x06")  # shl eax, 6                           times TEXT
    asm(b"\x05", struct.pack("<I", at.texts))  # add eax, texts
    asm(b"\x49\x89\xc4")  # mov r12, rax
    asm(b"\x48\x8b\x73\x30")  # mov rsi, [rbx+48]                told
    asm(b"\x48\x8b\x53\x38")  # mov rdx, [rbx+56]                told_length
    go(_CALL, "say")
    asm(b"\x48\x83\x3b\x00")  # cmp qword [rbx], 0               number
    go(_JNS, "text")
    asm(b"\x48\x8b\x75\x10")  # mov rsi, [rbp+16]                argv[1]
    asm(b"\x31\xd2")  # xor edx, edx
    asm.label("length")
    asm(b"\x80\x3c\x16\x00")  # cmp byte [rsi+rdx], 0
    go(_JE, "measured")
    asm(b"\xff\xc2")  # inc edx
    go(_JUMP, "length")
    asm.label("measured")
    go(_CALL, "say")
    asm.label("text")
    asm(b"\x49\x8d\x74\x24\x01")  # lea rsi, [r12+1]
    asm(b"\x41\x0f\xb6\x14\x24")  # movzx edx, byte [r12]
    go(_CALL, "say")
    asm(b"\xbf", struct.pack("<I", _FAILED))  # mov edi, 1
    asm(b"\xb8", struct.pack("<I", _EXIT_GROUP), _SYSCALL)  # mov eax, exit_group; syscall

    asm.label("say")
    asm(b"\xbf", struct.pack("<I", 2))  # mov edi, 2             stderr
    asm(b"\xb8", struct.pack("<I", _WRITE), _SYSCALL)  # mov eax, write; syscall
    asm(b"\xc3")  # ret
    return asm.finish()


# aarch64: x19 holds the initial stack pointer, x20 the current call, x22 the last result, x21 a text.

_A64_WRITE, _A64_EXECVE, _A64_EXIT_GROUP = 64, 221, 94
_SVC = 0xD4000001  # svc #0
_EQ, _NE, _LO, _GE, _LT, _LS = 0x0, 0x1, 0x3, 0xA, 0xB, 0x9


def aarch64(at: Addresses) -> bytes:
    """The code for aarch64."""
    asm = _Assembly()

    def put(*words: int) -> None:
        asm(struct.pack(f"<{len(words)}I", *words))

    def branch(name: str, condition: int | None = None, *, link: bool = False) -> None:
        """b, b.cond or bl."""

        def encode(distance: int) -> bytes:
            words = distance // 4
            if condition is not None:
                return struct.pack("<I", 0x54000000 | (words & 0x7FFFF) << 5 | condition)
            return struct.pack("<I", (0x94000000 if link else 0x14000000) | words & 0x3FFFFFF)

        asm.jump(name, 4, encode)

    put(_add(19, _SP, 0))  # mov x19, sp
    put(_movz(22, 0))
    put(_ldr(9, 19, 0), _cmp(9, 3))  # argc
    branch("refuse", _LO)
    put(_ldr(9, 19, 8), _ldr(9, 9, 0))  # the first eight bytes of argv[0]
    marker = int.from_bytes(MARKER, "little")
    put(_movz(10, marker & 0xFFFF), *(_movk(10, marker >> 16 * part & 0xFFFF, part) for part in (1, 2, 3)))
    put(_cmp_register(9, 10))
    branch("refuse", _NE)
    put(*_address(20, at.calls))

    asm.label("next")
    put(_ldr(8, 20, 0), _cmp(8, 0))  # number
    branch("execute", _LT)
    put(_ldp(0, 1, 20, 8), _ldp(2, 3, 20, 24), _ldr(4, 20, 40))
    put(_cmn(0, -PREVIOUS), _csel(0, 22, 0, _EQ))
    put(_SVC, _add(22, 0, 0), _cmp(0, 0))  # svc; mov x22, x0
    branch("done", _GE)
    put(_ldr(9, 20, 56), _cmp(9, 0))  # told_length
    branch("fail", _NE)
    asm.label("done")
    put(_add(20, 20, 64))
    branch("next")

    asm.label("execute")
    put(_ldr(0, 19, 16), _add(1, 19, 24))  # argv[1], argv + 2
    put(_ldr(9, 19, 0), _add_eighths(2, 19, 9), _add(2, 2, 16))  # envp, behind argv's null
    put(_movz(8, _A64_EXECVE), _SVC)
    branch("fail")

    asm.label("refuse")
    put(*_address(20, at.refused), _movz(0, _EACCES), _neg(0, 0))

    asm.label("fail")
    put(_neg(0, 0), _cmp(0, LAST_ERRNO))
    branch("known", _LS)
    put(_movz(0, 0))
    asm.label("known")
    put(*_address(21, at.texts), _add_texts(21, 21, 0))
    put(_ldp(1, 2, 20, 48))  # told, told_length
    branch("say", link=True)
    put(_ldr(9, 20, 0), _cmp(9, 0))  # number
    branch("text", _GE)
    put(_ldr(1, 19, 16), _movz(2, 0))  # argv[1]
    asm.label("length")
    put(_ldrb_register(9, 1, 2), _cmp(9, 0))
    branch("measured", _EQ)
    put(_add(2, 2, 1))
    branch("length")
    asm.label("measured")
    branch("say", link=True)
    asm.label("text")
    put(_ldrb(2, 21), _add(1, 21, 1))
    branch("say", link=True)
    put(_movz(0, _FAILED), _movz(8, _A64_EXIT_GROUP), _SVC)

    asm.label("say")
    put(_movz(0, 2), _movz(8, _A64_WRITE), _SVC, 0xD65F03C0)  # stderr; ret
    return asm.finish()


_SP = 31


def _movz(register: int, value: int) -> int:
    """movz xR, #value"""
    return 0xD2800000 | value << 5 | register


def _movk(register: int, value: int, part: int) -> int:
    """movk xR, #value, lsl 16 * part"""
    return 0xF2800000 | part << 21 | value << 5 | register


def _address(register: int, value: int) -> tuple[int, int]:
    return _movz(register, value & 0xFFFF), _movk(register, value >> 16, 1)


def _add(target: int, source: int, value: int) -> int:
    """add xT, xS, #value"""
    return 0x91000000 | value << 10 | source << 5 | target


def _add_eighths(target: int, source: int, index: int) -> int:
    """add xT, xS, xI, lsl 3"""
    return 0x8B000000 | index << 16 | 3 << 10 | source << 5 | target


def _add_texts(target: int, source: int, index: int) -> int:
    """add xT, xS, xI, lsl 6"""
    return 0x8B000000 | index << 16 | 6 << 10 | source << 5 | target


def _neg(target: int, source: int) -> int:
    """neg xT, xS"""
    return 0xCB0003E0 | source << 16 | target


def _cmp(register: int, value: int) -> int:
    """cmp xR, #value"""
    return 0xF100001F | value << 10 | register << 5


def _cmn(register: int, value: int) -> int:
    """cmn xR, #value"""
    return 0xB100001F | value << 10 | register << 5


def _cmp_register(first: int, second: int) -> int:
    """cmp xF, xS"""
    return 0xEB00001F | second << 16 | first << 5


def _csel(target: int, then: int, otherwise: int, condition: int) -> int:
    """csel xT, xA, xB, cond"""
    return 0x9A800000 | otherwise << 16 | condition << 12 | then << 5 | target


def _ldr(target: int, base: int, offset: int) -> int:
    """ldr xT, [xB, #offset]"""
    return 0xF9400000 | offset // 8 << 10 | base << 5 | target


def _ldp(first: int, second: int, base: int, offset: int) -> int:
    """ldp xF, xS, [xB, #offset]"""
    return 0xA9400000 | offset // 8 << 15 | second << 10 | base << 5 | first


def _ldrb(target: int, base: int) -> int:
    """ldrb wT, [xB]"""
    return 0x39400000 | base << 5 | target


def _ldrb_register(target: int, base: int, index: int) -> int:
    """ldrb wT, [xB, xI]"""
    return 0x38606800 | index << 16 | base << 5 | target
