"""An OCI seccomp configuration compiled to BPF by libseccomp, through ctypes.

libseccomp knows every architecture's system call numbers and multiplexed calls; we put the rules in and
take the finished program out. One thing is added in front, as in runc: calls newer than any that the
profile names get ENOSYS instead of the profile's error, so that a libc that tries a new call first
falls back to an old one (with EPERM it would give up).
"""

import ctypes
import errno
import os
import struct

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, Unknown
from cutaway.linux.seccomp import INSTRUCTION, MAX_INSTRUCTIONS, NOTIFY, notifies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Seccomp, Syscall, SyscallArg

# seccomp(2)'s return values; libseccomp's SCMP_ACT_* are the same numbers.
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

# The specification's architectures; libseccomp's names are these in lower case without the prefix.
ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        "AARCH64", "ARM", "LOONGARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32",
        "PARISC", "PARISC64", "PPC", "PPC64", "PPC64LE", "RISCV64", "S390", "S390X", "X32", "X86", "X86_64",
    )
)  # fmt: skip

_ATTR_NNP, _ATTR_OPTIMIZE = 3, 8
_BINARY_TREE = 2
_TREE_FROM = 32  # rules; libseccomp up to 2.5.4 miscompiles a tree without rules
_MAX_ARGS = 6
_NOTIFY_LEVEL = 6  # of seccomp_api_get(3): notifications, and TSYNC beside them

_X86_64, _X32 = 0xC000003E, 0x4000003E
_X32_BIT = 0x40000000


class _ArgCmp(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


_library: "ctypes.CDLL | None" = None


def library() -> "ctypes.CDLL":
    """libseccomp, loaded on first use. Raises `FailedPrecondition` when it is not installed."""
    global _library
    if _library is None:
        try:
            lib = ctypes.CDLL("libseccomp.so.2")
        except OSError as error:
            raise FailedPrecondition(
                f"seccomp filters need libseccomp, which cannot be loaded ({error}); install it "
                "(Debian, Ubuntu: libseccomp2) or run the container with seccomp unconfined"
            ) from None
        lib.seccomp_init.restype = ctypes.c_void_p
        lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        lib.seccomp_release.argtypes = (ctypes.c_void_p,)
        lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        lib.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        lib.seccomp_arch_native.restype = ctypes.c_uint32
        lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        lib.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
        lib.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
        lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
        lib.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p,
        )  # fmt: skip
        lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        lib.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
        _library = lib
    return _library


def version() -> str:
    """libseccomp's own version, "2.5.4"."""
    return ".".join(map(str, library().seccomp_version().contents))


def compile(config: "Seccomp") -> bytes:
    """See `seccomp.compile`."""
    default = _action(config.default_action, config.default_errno_ret, "linux.seccomp.defaultAction")
    lib = library()
    _check_notify(config)
    architectures = _architectures(config)
    context = lib.seccomp_init(default)
    if not context:
        raise FailedPrecondition(f"libseccomp {version()} or this kernel has no {config.default_action}")
    try:
        for where, token in architectures:
            _check(
                lib.seccomp_arch_add(context, token), f"{where}: cannot add the architecture", errno.EEXIST
            )
        _check(lib.seccomp_attr_set(context, _ATTR_NNP, 0), "cannot clear libseccomp's no_new_privileges")
        if sum(len(rule.names) for rule in config.syscalls or ()) > _TREE_FROM:
            lib.seccomp_attr_set(
                context, _ATTR_OPTIMIZE, _BINARY_TREE
            )  # not before 2.5: then a longer filter
        for index, rule in enumerate(config.syscalls or ()):
            _add_rule(context, rule, f"linux.seccomp.syscalls[{index}]", default)
        program = _export(context)
    finally:
        lib.seccomp_release(context)
    program = _enosys_stub(config, [token for _, token in architectures]) + program
    if len(program) > MAX_INSTRUCTIONS * INSTRUCTION:
        raise InvalidArgument(
            f"linux.seccomp: the filter has {len(program) // INSTRUCTION} instructions, the kernel takes "
            f"{MAX_INSTRUCTIONS}; use fewer rules or architectures"
        )
    return program


def _check_notify(config: "Seccomp") -> None:
    """Refuse what would wait for ever: init writes to its parent before the agent has the listener."""
    if config.default_action == NOTIFY:
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    for index, rule in enumerate(config.syscalls or ()):
        if rule.action == NOTIFY and "write" in rule.names:
            raise InvalidArgument(
                f"linux.seccomp.syscalls[{index}]: SCMP_ACT_NOTIFY cannot be used for the write syscall"
            )
    if not notifies(config):
        return
    if not config.listener_path:
        raise InvalidArgument(
            "linux.seccomp.listenerPath: listenerPath is not set, but SCMP_ACT_NOTIFY is used"
        )
    level = library().seccomp_api_get()
    if level < _NOTIFY_LEVEL:
        raise FailedPrecondition(
            f"seccomp notify unsupported: API level: got {level}, want at least {_NOTIFY_LEVEL}. "
            "Please try with libseccomp >= 2.5.0 and Linux >= 5.7"
        )


def _action(name: str, errno_ret: int | None, where: str) -> int:
    value = ACTIONS.get(name)
    if value is None:
        raise InvalidArgument(
            f"{where}: string {name} is not a valid action for seccomp; expected one of {', '.join(ACTIONS)}"
        )
    if value in (_ERRNO, _TRACE):
        value |= (errno.EPERM if errno_ret is None else errno_ret) & 0xFFFF
    return value


def token_of(name: str) -> int:
    """An architecture's number in libseccomp, 0 when it is newer than the library."""
    token: int = library().seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    return token


def _architectures(config: "Seccomp") -> list[tuple[str, int]]:
    """The configuration's architectures as libseccomp's numbers, each with its JSON path."""
    found = []
    for index, name in enumerate(config.architectures or ()):
        where = f"linux.seccomp.architectures[{index}]"
        token = token_of(name) if name in ARCHITECTURES else 0
        if not token:
            known = ", ".join(ARCHITECTURES)
            raise InvalidArgument(
                f"{where}: string {name} is not a valid arch for seccomp; expected one of {known}"
            )
        found.append((where, token))
    return found


def _add_rule(context: int, rule: "Syscall", where: str, default: int) -> None:
    action = _action(rule.action, rule.errno_ret, f"{where}.action")
    if not rule.names:
        raise InvalidArgument(f"{where}.names: expected at least one system call")
    conditions = [_condition(arg, f"{where}.args[{index}]") for index, arg in enumerate(rule.args or ())]
    if action == default:
        return  # says nothing new, and libseccomp refuses it
    lib = library()
    # Two conditions on one argument cannot be one rule in libseccomp; each alone then matches, as in runc.
    apart = len({condition.arg for condition in conditions}) < len(conditions)
    groups = [[condition] for condition in conditions] if apart else [conditions]
    arrays = [(_ArgCmp * len(group))(*group) for group in groups]
    for name in rule.names:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue  # not known to this libseccomp: newer than it, or of no machine; runc passes it over too
        for array in arrays:
            result = lib.seccomp_rule_add_array(context, action, number, len(array), array)
            _check(result, f"{where}: error adding seccomp filter rule for syscall {name}")


def _condition(arg: "SyscallArg", where: str) -> _ArgCmp:
    operator = OPERATORS.get(arg.op)
    if operator is None:
        known = ", ".join(OPERATORS)
        raise InvalidArgument(
            f"{where}.op: string {arg.op} is not a valid operator for seccomp; expected one of {known}"
        )
    if not 0 <= arg.index < _MAX_ARGS:
        raise InvalidArgument(
            f"{where}.index: expected 0 to {_MAX_ARGS - 1}, for a system call's arguments, got {arg.index}"
        )
    mask = (1 << 64) - 1
    return _ArgCmp(arg.index, operator, arg.value & mask, (arg.value_two or 0) & mask)


def _check(result: int, what: str, *ignored: int) -> None:
    """libseccomp returns 0 or a negative errno."""
    if result < 0 and -result not in ignored:
        cls: type[CutawayError] = InvalidArgument if -result in (errno.EINVAL, errno.EDOM) else Unknown
        raise cls(f"{what}: {os.strerror(-result)}")


def _export(context: int) -> bytes:
    """The program, by way of a memory file: libseccomp before 2.6 writes to descriptors only."""
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library().seccomp_export_bpf(context, fd), "error exporting the seccomp filter")
        size = os.lseek(fd, 0, os.SEEK_CUR)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


# Classic BPF (linux/filter.h): load a word of struct seccomp_data {int nr; u32 arch; ...}, jumps, return.
_LOAD, _JUMP, _JEQ, _JGT, _JSET, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCH = 0, 4
_ANSWER_ENOSYS = _ERRNO | errno.ENOSYS


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _enosys_stub(config: "Seccomp", architectures: list[int]) -> bytes:
    """Instructions to go first: ENOSYS for every call beyond the profile's highest, per architecture.

    None are needed when the default lets calls through, or answers ENOSYS itself.
    """
    if config.default_action in _PERMISSIVE or config.default_errno_ret == errno.ENOSYS:
        return b""
    native = library().seccomp_arch_native()
    highest = {token: _highest(config, token) for token in dict.fromkeys([native, *architectures])}
    sections = []
    for token, number in highest.items():
        if token == _X86_64:
            sections.append((token, _x86_64_section(number, highest.get(_X32, 0))))
        elif token != _X32 and number:
            sections.append((token, _limit(number)))
    stub = b""
    for token, section in reversed(sections):  # backwards, as each jumps over those after it
        rest = len(stub) // INSTRUCTION
        body = _line(_LOAD, _NUMBER) + section + _line(_JUMP, rest)
        stub = _line(_JEQ, token, 0, len(body) // INSTRUCTION) + body + stub
    return _line(_LOAD, _ARCH) + stub if stub else b""


def _highest(config: "Seccomp", token: int) -> int:
    """The highest number of a call that the profile names; 0 without any. Pseudo numbers are negative."""
    resolve = library().seccomp_syscall_resolve_name_arch
    numbers = [resolve(token, name.encode()) for rule in config.syscalls or () for name in rule.names]
    return max(numbers, default=0) if max(numbers, default=0) > 0 else 0


def _limit(number: int) -> bytes:
    return _line(_JGT, number, 0, 1) + _line(_RETURN, _ANSWER_ENOSYS)


def _x86_64_section(number: int, x32_number: int) -> bytes:
    """x32 calls are x86-64 ones with bit 30 set; a profile without x32 leaves them to the filter."""
    plain = _limit(number) if number else b""
    x32 = _limit(x32_number) if x32_number else b""
    # jset: x32 -> over `plain` and its jump; else fall into `plain`, then over `x32`
    over = (len(plain) + INSTRUCTION) // INSTRUCTION
    return _line(_JSET, _X32_BIT, over, 0) + plain + _line(_JUMP, len(x32) // INSTRUCTION) + x32
