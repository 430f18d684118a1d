"""The one way into libc: raw system calls with errno turned into OSError.

Everything in `cutaway.linux` that the standard library's `os` lacks goes through `syscall` or `call`
here; the wrappers named after the system calls live in the modules of their concern.
"""

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# x86-64 has numbers of its own; every newer architecture shares the generic table, and calls added
# since 5.1 have one number everywhere (include/uapi/asm-generic/unistd.h).
_X86_64 = {
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "clone": 56,
    "unshare": 272,
    "setns": 308,
    "keyctl": 250,
    "personality": 135,
    "sched_setattr": 314,
    "ioprio_set": 251,
    "memfd_create": 319,
    "capset": 126,
    "execveat": 322,
    "prctl": 157,
    "seccomp": 317,
    "prlimit64": 302,
    "openat": 257,
    "write": 1,
    "close": 3,
    "fchdir": 81,
}
_GENERIC = {
    "mount": 40,
    "umount2": 39,
    "pivot_root": 41,
    "clone": 220,
    "unshare": 97,
    "setns": 268,
    "keyctl": 219,
    "personality": 92,
    "sched_setattr": 274,
    "ioprio_set": 30,
    "memfd_create": 279,
    "capset": 91,
    "execveat": 281,
    "prctl": 167,
    "seccomp": 277,
    "prlimit64": 261,
    "openat": 56,
    "write": 64,
    "close": 57,
    "fchdir": 50,
}
_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "faccessat2": 439,
    "mount_setattr": 442,
}
NUMBERS = {**(_X86_64 if os.uname().machine == "x86_64" else _GENERIC), **_COMMON}

_libc = ctypes.CDLL(None, use_errno=True)
# The same library without giving up the interpreter's lock: for clone, whose child must find the lock
# held by itself.
_held = ctypes.PyDLL(None, use_errno=True)
for _library in (_libc, _held):
    _library.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)

_ENOSYS = 38


def words(code: int) -> str:
    """An errno in words as Go programs (and so runc's callers) write it: strerror in lower case."""
    text = os.strerror(code)
    return text[:1].lower() + text[1:]


def fail(code: int, what: str) -> "NoReturn":
    """Raise the OSError of an errno; `what` says the operation and its object."""
    text = words(code)
    if code == _ENOSYS:
        text += f" (not in this kernel, {os.uname().release}, or blocked by a seccomp filter)"
    raise OSError(code, f"{what}: {text}")


def _argument(value: "Any") -> "Any":
    if isinstance(value, int):
        return ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, str):
        return os.fsencode(value)
    return value


def raw(name: str, *arguments: "Any") -> int:
    """The system call's plain result, -1 with `ctypes.get_errno()` set on failure."""
    result: int = _libc.syscall(ctypes.c_long(NUMBERS[name]), *map(_argument, arguments))
    return result


def raw_held(name: str, *arguments: "Any") -> int:
    """As `raw`, with the interpreter's lock held across the call."""
    result: int = _held.syscall(ctypes.c_long(NUMBERS[name]), *map(_argument, arguments))
    return result


def syscall(name: str, *arguments: "Any", what: str = "") -> int:
    """Call the kernel: ints go as they are, str and bytes as C strings, None as a null pointer.

    Raises OSError, its text beginning with `what` (or the call's name).
    """
    result = raw(name, *arguments)
    if result < 0:
        fail(ctypes.get_errno(), what or name)
    return result


def prctl(option: int, *arguments: int, what: str = "prctl") -> int:
    """prctl(2). Raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    result: int = _libc.prctl(option, *padded)
    if result < 0:
        fail(ctypes.get_errno(), what)
    return result


def setdomainname(name: str) -> None:
    """setdomainname(2). Raises OSError."""
    data = os.fsencode(name)
    if _libc.setdomainname(data, ctypes.c_size_t(len(data))) < 0:
        fail(ctypes.get_errno(), "setdomainname")


def fstatfs(fd: int, buffer: "Any") -> int:
    """fstatfs(3) into a caller's buffer; -1 with errno set on failure."""
    result: int = _libc.fstatfs(fd, buffer)
    return result


def reason(error: OSError) -> str:
    """An OSError as one line without Python's dressing: what it concerned, and the errno in words."""
    text = error.strerror or str(error)
    text = text[:1].lower() + text[1:] if error.errno and text == os.strerror(error.errno) else text
    return f"{error.filename}: {text}" if error.filename else text
