"""A tiny program, sealed and nobody's file, that makes a few last system calls and executes another program.

Who executes a program inside a container from an interpreter leaves that interpreter's file within reach:
`/proc/self/exe`, as the program or behind a script's `#!`, is resolved while the caller's file still stands
there (CVE-2019-5736). Going through the trampoline it names a memfd that nobody can write to and that
belongs to no file system. Executed again that way, it says so and ends: its first argument is then not
the marker, or runs out.

    file offset 0   ELF header, two program headers
    then            code, a call for refusals, a text for each errno: the same for every trampoline
    FIXED           the calls, at most MOST_CALLS, then what they point to

All of it is one segment, readable and executable, never writable. Sources: elf(5), memfd_create(2).
"""

import ctypes
import os
import struct

from cutaway.linux import libc, trampoline_code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PREVIOUS = trampoline_code.PREVIOUS
MOST_CALLS = 16
CALL = struct.Struct("<qqqqqqQQ")  # number, five arguments, what to say on failure: its address and length

_BASE = 0x400000
_ALIGN = 0x10000  # the largest page size of the machines we write for
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_CODE = _HEADER.size + 2 * _PROGRAM_HEADER.size
_IDENT = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)  # 64-bit, little-endian, version 1, System V
_EXEC = 2
_LOAD, _GNU_STACK = 1, 0x6474E551
_X, _W, _R = 1, 2, 4
_SEGMENT = 1 << 18  # room for the longest filter (4096 instructions of 8 bytes) several times over

_MACHINES = {"x86_64": (62, trampoline_code.x86_64), "aarch64": (183, trampoline_code.aarch64)}
_LARGEST_CODE = 512  # of either machine, rounded up
_REFUSED = _CODE + _LARGEST_CODE
_REFUSAL = b"exec /proc/self/exe"
_TEXTS = _REFUSED + CALL.size + 64
FIXED = _TEXTS + (trampoline_code.LAST_ERRNO + 1) * trampoline_code.TEXT
_DATA = FIXED + MOST_CALLS * CALL.size
_LAST = -1  # the number of the entry that stands for execve
_EXEC_SAYS = b"exec "

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS = 1033
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
_AT_EMPTY_PATH = 0x1000
_EINVAL, _EACCES = 22, 13

_fixed: dict[str, bytes] = {}


def fixed(machine: str) -> bytes:
    """The part that all trampolines of a machine share."""
    if machine not in _fixed:
        number, code = _MACHINES[machine]
        made = code(trampoline_code.Addresses(_BASE + _REFUSED, _BASE + _TEXTS, _BASE + FIXED))
        refusal = CALL.pack(0, 0, 0, 0, 0, 0, _BASE + _REFUSED + CALL.size, len(_REFUSAL)) + _REFUSAL
        image = (_headers(number) + made).ljust(_REFUSED, b"\0") + refusal
        _fixed[machine] = image.ljust(_TEXTS, b"\0") + b"".join(
            map(_text, range(trampoline_code.LAST_ERRNO + 1))
        )
    return _fixed[machine]


def _headers(machine: int) -> bytes:
    header = _HEADER.pack(
        _IDENT, _EXEC, machine, 1, _BASE + _CODE, _HEADER.size, 0, 0,
        _HEADER.size, _PROGRAM_HEADER.size, 2, 0, 0, 0,
    )  # fmt: skip
    load = _PROGRAM_HEADER.pack(_LOAD, _R | _X, 0, _BASE, _BASE, _SEGMENT, _SEGMENT, _ALIGN)
    return header + load + _PROGRAM_HEADER.pack(_GNU_STACK, _R | _W, 0, 0, 0, 0, 0, 16)


def _text(code: int) -> bytes:
    words = libc.words(code) if code else "unknown error"
    text = f": {words}\n".encode()[: trampoline_code.TEXT - 1]
    return (bytes((len(text),)) + text).ljust(trampoline_code.TEXT, b"\0")


class Trampoline:
    """The calls to make before the program is executed, in order."""

    __slots__ = ("_calls", "_data")

    def __init__(self) -> None:
        self._calls = b""
        self._data = bytearray()

    def place(self, data: bytes) -> int:
        """Put data into the trampoline, read-only; its address there, a multiple of 8."""
        address = _BASE + _DATA + len(self._data)
        self._data += data + bytes(-len(data) % 8)
        return address

    def call(self, number: int, *arguments: int, failure: str = "") -> None:
        """Add a system call with up to five arguments; a first of PREVIOUS is what the call before returned.

        One that fails ends the process with 1 after "`failure`: the errno in words" on stderr; without
        `failure` it may fail.
        """
        told = failure.encode()
        where = self.place(told) if told else 0
        self._add(CALL.pack(number, *(*arguments, 0, 0, 0, 0, 0)[:5], where, len(told)))

    def _add(self, packed: bytes) -> None:
        self._calls += packed
        if len(self._calls) > MOST_CALLS * CALL.size:
            raise ValueError(f"more than {MOST_CALLS} calls")

    def image(self, machine: str) -> bytes:
        """The whole file."""
        self._add(CALL.pack(_LAST, 0, 0, 0, 0, 0, self.place(_EXEC_SAYS), len(_EXEC_SAYS)))
        return (fixed(machine) + self._calls).ljust(_DATA, b"\0") + self._data

    def seal(self) -> int:
        """The trampoline as a memfd that nobody can change any more. Raises OSError."""
        # The kernel maps the whole segment: nothing of it may lie past the end.
        return sealed("cutaway-exec", self.image(os.uname().machine), _SEGMENT)


def sealed(name: str, image: bytes, size: int) -> int:
    """A program in a memfd of `size` bytes that nobody can change any more. Raises OSError."""
    import fcntl

    fd = _memfd(name)
    try:
        os.ftruncate(fd, size)
        while image:
            image = image[os.write(fd, image) :]
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_ALL)
        return fd
    except OSError:
        os.close(fd)
        raise


def _memfd(name: str) -> int:
    """Executable whatever vm.memfd_noexec says by default; kernels before 6.3 do not know the flag."""
    try:
        return os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError as error:
        if error.errno == _EACCES:
            libc.fail(_EACCES, "memfd_create (the sysctl vm.memfd_noexec must not be 2)")
        if error.errno != _EINVAL:
            libc.fail(error.errno or 0, "memfd_create")
    return os.memfd_create(name, _MFD_CLOEXEC | _MFD_ALLOW_SEALING)


def arguments(path: str, program: list[str]) -> list[str]:
    """What the trampoline is executed with, to execute `path` with the arguments `program`."""
    return [trampoline_code.MARKER[:-1].decode(), path, *program]


def execute(fd: int, path: str, program: list[str], environment: dict[str, str]) -> "NoReturn":
    """Execute a program through a trampoline. Raises OSError if not even the trampoline can be executed.

    Not by `os.execve`: where execveat(2) is missing, libc would fall back on /proc/self/fd of what is the
    container's /proc, and so anything.
    """
    argv = _strings(arguments(path, program))
    envp = _strings([f"{name}={value}" for name, value in environment.items()])
    libc.syscall("execveat", fd, b"", argv, envp, _AT_EMPTY_PATH)
    raise AssertionError("execveat returned")


def execute_by_name(
    fd: int, directory: int, path: str, program: list[str], environment: dict[str, str]
) -> "NoReturn":
    """The same by execve(2) alone; `directory` is /proc/self/fd of a trusted procfs.

    Changes the working directory: the trampoline has to go back. Raises OSError.
    """
    os.fchdir(directory)
    os.execve(str(fd), arguments(path, program), environment)


def _strings(values: list[str]) -> "ctypes.Array[ctypes.c_char_p]":
    return (ctypes.c_char_p * (len(values) + 1))(*map(os.fsencode, values), None)
