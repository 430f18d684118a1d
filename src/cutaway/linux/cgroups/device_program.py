"""The device rules of a v2 cgroup: an eBPF program that the kernel asks at every open and mknod.

cgroup v2 has no device files; a program of type BPF_PROG_TYPE_CGROUP_DEVICE is attached to the cgroup
instead (bpf(2); Linux 4.15). It is given

    struct bpf_cgroup_dev_ctx {
        u32 access_type;  /* low half: 1 block, 2 char; high half: 1 mknod, 2 read, 4 write */
        u32 major, minor;
    }

and answers 1 for allowed, 0 for EPERM. This module holds all the assembler that such a program needs.
"""

import ctypes
import errno
import os
import struct

from cutaway.errors import FailedPrecondition, PermissionDenied, Unknown
from cutaway.linux.cgroups.devices import ANY, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.devices import Key

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7

# Opcodes of the instructions in use (Documentation/bpf/standardization/instruction-set.rst).
_LOAD_WORD = 0x61  # dst = *(u32 *)(src + off)
_AND_IMM = 0x54  # u32
_SHIFT_RIGHT_IMM = 0x74  # u32
_MOVE_REG = 0xBC  # u32
_MOVE_IMM = 0xB7
_JUMP_NE_IMM = 0x55
_JUMP_NE_REG = 0x5D
_JUMP_EQ_IMM = 0x15
_EXIT = 0x95

_RESULT, _CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5  # registers
_SCRATCH = _CONTEXT  # free once everything is loaded


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn in this machine's byte order (little-endian: both supported machines are)."""
    return struct.pack("<BBhi", code, dst | src << 4, offset, value)


def assemble(table: Table) -> bytes:
    """The program for a table of rules: each rule either answers or falls through to the next."""
    program = [
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, 0),
        _instruction(_AND_IMM, _KIND, value=0xFFFF),
        _instruction(_LOAD_WORD, _WANTED, _CONTEXT, 0),
        _instruction(_SHIFT_RIGHT_IMM, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for key, access in table.rules.items():
        program += _rule(key, sum(_ACCESS[letter] for letter in access), allow=not table.open)
    program += _answer(table.open)
    return b"".join(program)


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE_IMM, _RESULT, value=int(allow)), _instruction(_EXIT)]


def _rule(key: "Key", access: int, allow: bool) -> list[bytes]:
    """A list of tests, each jumping past the answer when it does not hold."""
    kind, major, minor = key
    tests: list[tuple[int, int, int, int]] = [(_JUMP_NE_IMM, _KIND, 0, _TYPES[kind])]
    body: list[tuple[int, int, int, int]] = []
    if access != _ALL:
        body = [(_MOVE_REG, _SCRATCH, _WANTED, 0), (_AND_IMM, _SCRATCH, 0, access)]
        # allowed if nothing else is wanted; denied if any of it is wanted
        body.append((_JUMP_NE_REG, _SCRATCH, _WANTED, 0) if allow else (_JUMP_EQ_IMM, _SCRATCH, 0, 0))
    tests += body
    if major != ANY:
        tests.append((_JUMP_NE_IMM, _MAJOR, 0, major))
    if minor != ANY:
        tests.append((_JUMP_NE_IMM, _MINOR, 0, minor))
    jumps = (_JUMP_NE_IMM, _JUMP_NE_REG, _JUMP_EQ_IMM)
    lines = []
    for index, (code, dst, src, value) in enumerate(tests):
        past = len(tests) - index - 1 + 2 if code in jumps else 0  # 2: the answer's length
        lines.append(_instruction(code, dst, src, past, value))
    return lines + _answer(allow)


_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH, _BPF_PROG_GET_FD_BY_ID, _BPF_PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE = 15, 6
_ALLOW_MULTI, _REPLACE = 2, 4
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_RLIMIT_MEMLOCK = 8


def install(directory: str, program: bytes) -> None:
    """Load a program and attach it to a cgroup in place of those attached by us before.

    Raises `PermissionDenied` or `Unknown` with the verifier's words.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened = [cgroup]
    try:
        old = _attached(cgroup)
        opened += old
        loaded = load(program)
        opened.append(loaded)
        if len(old) == 1 and _try_replace(cgroup, loaded, old[0]):
            return
        _bpf(_BPF_PROG_ATTACH, struct.pack("=IIIII", cgroup, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, 0))
        for program_fd in old:
            _detach(cgroup, program_fd)
    except OSError as error:
        raise _failure(f"attach device rules to {directory}", error) from None
    finally:
        for fd in opened:
            os.close(fd)


def uninstall(directory: str) -> None:
    """Detach what an earlier configuration of a cgroup has left; nothing to do on a new one.

    Raises `PermissionDenied` or `Unknown`; a kernel without such programs has none to detach.
    """
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened = [cgroup]
    try:
        try:
            old = _attached(cgroup)
        except OSError:
            return  # no bpf(2), no right to it: nor was there for whoever would have attached one
        opened += old
        for program_fd in old:
            _detach(cgroup, program_fd)
    except OSError as error:
        raise _failure(f"detach device rules from {directory}", error) from None
    finally:
        for fd in opened:
            os.close(fd)


def _detach(cgroup: int, program: int) -> None:
    _bpf(_BPF_PROG_DETACH, struct.pack("=III", cgroup, program, _ATTACH_CGROUP_DEVICE))


def _try_replace(cgroup: int, new: int, old: int) -> bool:
    """One step from the old rules to the new (Linux 5.6); otherwise both hold for a moment: safe."""
    flags = _ALLOW_MULTI | _REPLACE
    try:
        _bpf(_BPF_PROG_ATTACH, struct.pack("=IIIII", cgroup, new, _ATTACH_CGROUP_DEVICE, flags, old))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def load(program: bytes) -> int:
    """BPF_PROG_LOAD; returns the program's descriptor. A refusal is repeated with the verifier's log."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    count = len(program) // 8

    def attributes(level: int, size: int, log: int) -> bytes:
        addresses = ctypes.addressof(code), ctypes.addressof(licence)
        return struct.pack("=IIQQIIQ", _TYPE_CGROUP_DEVICE, count, *addresses, level, size, log)

    _raise_memlock()
    try:
        return _bpf(_BPF_PROG_LOAD, attributes(0, 0, 0))
    except OSError as error:
        log = ctypes.create_string_buffer(65536)
        try:
            return _bpf(_BPF_PROG_LOAD, attributes(1, len(log), ctypes.addressof(log)))
        except OSError:
            words = log.value.decode(errors="replace").strip().replace("\n", "; ")
            raise _failure("load device rules", error, words) from None


def _failure(what: str, error: OSError, words: str = "") -> PermissionDenied | FailedPrecondition | Unknown:
    cls: type[PermissionDenied | FailedPrecondition | Unknown] = Unknown
    if error.errno in (errno.EPERM, errno.EACCES):
        cls = PermissionDenied
    elif error.errno in (errno.ENOSYS, errno.EINVAL):
        cls = FailedPrecondition
    return cls(f"failed to {what}: bpf: {os.strerror(error.errno or 0)}{': ' + words if words else ''}")


def _raise_memlock() -> None:
    """Before Linux 5.11 programs counted as locked memory, whose limit is often 64 KiB."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return  # no right to raise it; newer kernels do not need it


def _attached(cgroup: int) -> list[int]:
    """Descriptors of the device programs on a cgroup; those we may not open (a policy's) are left alone."""
    ids = (ctypes.c_uint32 * 64)()
    # Larger than the fields in use: Linux 6.17 writes a later field whatever size it is told.
    head = struct.pack("=IIIIQI", cgroup, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    query = ctypes.create_string_buffer(head, 64)
    _bpf_buffer(_BPF_PROG_QUERY, query)
    count = struct.unpack_from("=I", query, 24)[0]
    found = []
    for number in ids[:count]:
        try:
            found.append(_bpf(_BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0)))
        except PermissionError:
            continue
        except BaseException:
            for fd in found:
                os.close(fd)
            raise
    return found


def _bpf(command: int, attributes: bytes) -> int:
    return _bpf_buffer(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _bpf_buffer(command: int, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    """bpf(2). EAGAIN: the verifier was interrupted by a signal."""
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    for _ in range(30):
        result: int = syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
