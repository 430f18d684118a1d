"""System call filters: an OCI seccomp configuration installed in the calling thread.

    program = compile(linux.seccomp, cache="/run/cutaway/seccomp")   # in the parent, before fork
    install(program, flags(linux.seccomp))                           # in the container's init, near the end

Without no_new_privileges the kernel demands CAP_SYS_ADMIN of whoever installs a filter, so init does it
before its capabilities go; with it, as the last thing before exec (seccomp(2)).

Compiling is libseccomp's work (`seccomp_compile`) and takes milliseconds; the result is kept
(`seccomp_cache`) and the cold path of a second container imports neither.
"""

import ctypes
import errno
import os

from cutaway.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Seccomp

# Names of the specification and runc -> bits of seccomp(2). TSYNC is known to runc, not to the specification,
# and says nothing: init has one thread, and the kernel takes no TSYNC together with a listener.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
_SPEC_ALLOW = FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
NEW_LISTENER = 1 << 3  # install answers with the descriptor that reports SCMP_ACT_NOTIFY's calls
NOTIFY = "SCMP_ACT_NOTIFY"

_LETTING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")

INSTRUCTION = 8  # bytes of a struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SET_MODE_FILTER = 1
_GET_ACTION_AVAIL = 2
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_MODE_FILTER = 2


def compile(config: "Seccomp", cache: str | None = None) -> bytes:
    """The filter as an array of struct sock_filter, from `cache` (a directory) if it is there.

    Raises `InvalidArgument` with the JSON path for an unknown action, operator or architecture and for a
    use of SCMP_ACT_NOTIFY that cannot work, `FailedPrecondition` without libseccomp.
    """
    if cache is not None:
        from cutaway.linux import seccomp_cache

        return seccomp_cache.compiled(config, cache)
    from cutaway.linux import seccomp_compile

    return seccomp_compile.compile(config)


def flags(config: "Seccomp") -> int:
    """The configuration's flags as bits for `install`.

    No `flags` at all, other than an empty list, means SPEC_ALLOW, as in runc: without it every program
    of the container would run with the speculative store bypass mitigation of CVE-2018-3639, slowly.
    """
    bits = NEW_LISTENER if notifies(config) else 0
    if config.flags is None:
        return bits | _SPEC_ALLOW
    for index, name in enumerate(config.flags):
        if name not in FLAGS:
            raise InvalidArgument(f"linux.seccomp.flags[{index}]: seccomp flag {name} is not known")
        bits |= FLAGS[name]
    return bits


def notifies(config: "Seccomp") -> bool:
    """Whether a rule hands system calls to an agent (seccomp_unotify(2))."""
    return any(rule.action == NOTIFY for rule in config.syscalls or ())


def allows(config: "Seccomp", name: str) -> bool:
    """Whether a filter certainly lets a system call happen, whatever its arguments."""
    rules = [rule for rule in config.syscalls or () if name in rule.names]
    if not rules:
        return config.default_action in _LETTING
    return all(rule.action in _LETTING and not rule.args for rule in rules)


def knows_flags(bits: int) -> bool:
    """Whether the kernel knows flags of a filter: it looks at them before it looks for the filter."""
    return _seccomp(SET_MODE_FILTER, bits, None) == -errno.EFAULT


def install(program: bytes, bits: int = 0) -> int:
    """Put a filter on the calling thread, for good; the listener with NEW_LISTENER among `bits`, else -1.

    Kernels before 4.17 do not know SPEC_ALLOW, and before 3.17 no flags at all: what only makes the
    filter cheaper is then left out. Raises `PermissionDenied` without CAP_SYS_ADMIN or
    no_new_privileges, `FailedPrecondition` when the kernel lacks seccomp or a flag.
    """
    count = len(program) // INSTRUCTION
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _Fprog(count, ctypes.addressof(buffer))
    result = _seccomp(SET_MODE_FILTER, bits, fprog)
    if result == -errno.EINVAL and bits & _SPEC_ALLOW:
        bits &= ~_SPEC_ALLOW
        result = _seccomp(SET_MODE_FILTER, bits, fprog)
    if result == -errno.ENOSYS and not bits & ~_SPEC_ALLOW:
        result = -_prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(fprog))
    if result < 0:
        raise _failure(-result, count)
    return result if bits & NEW_LISTENER else -1


def load(config: "Seccomp", no_new_privileges: bool, cache: str | None = None) -> None:
    """Compile and install in one go; sets no_new_privileges first if asked to."""
    program = compile(config, cache)
    if no_new_privileges:
        set_no_new_privileges()
    install(program, flags(config))


def set_no_new_privileges() -> None:
    """Make exec never give more rights than the caller has: no set-user-id, no file capabilities."""
    if code := _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0):
        raise Unknown(f"prctl PR_SET_NO_NEW_PRIVS: {os.strerror(code)}")


def supported_flags() -> list[str]:
    """The names in `FLAGS` that the running kernel takes: it looks at them before it misses the filter."""
    found = []
    for name, bit in FLAGS.items():
        with_it = bit | NEW_LISTENER if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" else bit
        if knows_flags(with_it):
            found.append(name)
    return found


def available() -> bool:
    """Whether the kernel has filters: it knows the action to allow."""
    action = ctypes.c_uint32(0x7FFF0000)
    return _seccomp(_GET_ACTION_AVAIL, 0, action) == 0


def _failure(code: int, count: int) -> PermissionDenied | FailedPrecondition | InvalidArgument | Unknown:
    words = f"error loading seccomp filter into kernel ({count} instructions): {os.strerror(code)}"
    if code in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"{words}; it needs CAP_SYS_ADMIN or no_new_privileges")
    if code == errno.ENOSYS:
        return FailedPrecondition(f"{words}; this kernel is built without seccomp filters")
    if code == errno.EINVAL:
        return InvalidArgument(f"{words}; the kernel may lack one of the flags, or the filter is too long")
    return Unknown(words)


class _Fprog(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _seccomp(operation: int, bits: int, argument: "ctypes.Structure | ctypes.c_uint32 | None") -> int:
    """seccomp(2); its result, or an errno with a minus. libc has no wrapper."""
    number = _SYS_SECCOMP.get(os.uname().machine)
    if number is None:
        return -errno.ENOSYS
    syscall = _libc().syscall
    result: int = syscall(number, operation, bits, None if argument is None else ctypes.byref(argument))
    return -ctypes.get_errno() if result < 0 else result


def _prctl(option: int, first: int, second: int) -> int:
    """prctl(2); 0 or an errno."""
    result: int = _libc().prctl(option, first, second, 0, 0)
    return ctypes.get_errno() if result < 0 else 0


_handle: "ctypes.CDLL | None" = None


def _libc() -> "ctypes.CDLL":
    global _handle
    if _handle is None:
        _handle = ctypes.CDLL(None, use_errno=True)
        _handle.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
        _handle.syscall.restype = ctypes.c_long
    return _handle
