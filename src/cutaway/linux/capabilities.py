"""Capabilities of a process: names, numbers, and the five sets (capabilities(7)).

The parent calls `resolve` on the configuration and reports `Sets.ignored`; the container's init then
does, in this order:

    drop_bounding(sets)      while still root: needs CAP_SETPCAP
    keep(True)               so that the change of user does not clear the permitted set
    setgid, setuid           (the caller)
    keep(False)
    set_sets(sets)           permitted, effective, inheritable, then ambient

Inheritable is whatever the configuration names and never more: a file with inheritable capabilities
would hand them to any user of the container otherwise (CVE-2022-29162). Who adds a capability to a
process (`exec --cap`) uses `add`, which holds to that.
"""

import ctypes
import os

from cutaway.errors import PermissionDenied, Unknown
from cutaway.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Capabilities

    _Words = ctypes.Array[ctypes.c_uint32]

# include/uapi/linux/capability.h; the index is the number.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

_NUMBERS = {name: number for number, name in enumerate(NAMES)}

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_LOWER = 3
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_SEARCHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_EINVAL = 22
_MOST = 64  # bits of the kernel's sets


class Sets:
    """The five sets as bit masks (bit n = capability number n), and the names that were passed over."""

    __slots__ = ("ambient", "bounding", "effective", "ignored", "inheritable", "permitted")

    def __init__(
        self,
        bounding: int = 0,
        effective: int = 0,
        permitted: int = 0,
        inheritable: int = 0,
        ambient: int = 0,
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.bounding = bounding
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.ambient = ambient
        self.ignored = ignored


_last_cap = -1


def last_cap() -> int:
    """The highest capability number that the running kernel has, asked once in a process and its forks."""
    global _last_cap
    if _last_cap < 0:
        _last_cap = _read_last_cap()
    return _last_cap


def _read_last_cap() -> int:
    """From /proc/sys/kernel/cap_last_cap, if the kernel itself agrees: a file that lies would leave what is
    above in the bounding set."""
    try:
        fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _probe_last_cap()
    try:
        told = os.read(fd, 16).strip()
    finally:
        os.close(fd)
    if told.isdigit() and _has(int(told)) and not _has(int(told) + 1):
        return int(told)
    return _probe_last_cap()


def _has(number: int) -> bool:
    """Whether the kernel has a capability of that number (capabilities(7)): EINVAL says that it has not."""
    return bool(_libc().prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0)


def _probe_last_cap() -> int:
    """Without that file."""
    number = 0
    while _has(number):
        number += 1
    return number - 1


def supported() -> tuple[str, ...]:
    """The names known here that the running kernel has, in the order of their numbers."""
    return NAMES[: last_cap() + 1]


def mask(names: "list[str] | tuple[str, ...]") -> int:
    """Names as a bit mask; names not in `NAMES` are left out."""
    return _mask(names, len(NAMES) - 1, set())


def names(bits: int) -> list[str]:
    """A bit mask as names."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def resolve(caps: "Capabilities | None", last: int | None = None, granted: int = ~0) -> Sets:
    """The sets that a configuration asks for; none at all when it asks for nothing.

    Names that are unknown, or that this kernel lacks, are not an error: they are listed in `ignored`
    for the caller to warn of, as runc does ("ignoring unknown or unavailable capabilities"). So are
    those beyond `granted`, what there is to give (config.md, `process.capabilities`).
    """
    if caps is None:
        return Sets()
    if last is None:
        last = last_cap()
    ignored: set[str] = set()
    sets = Sets(
        bounding=_mask(caps.bounding, last, ignored),
        effective=_mask(caps.effective, last, ignored),
        permitted=_mask(caps.permitted, last, ignored),
        inheritable=_mask(caps.inheritable, last, ignored),
        ambient=_mask(caps.ambient, last, ignored),
    )
    ignored.update(names((sets.effective | sets.permitted | sets.inheritable) & ~granted))
    sets.effective &= granted
    sets.permitted &= granted
    sets.inheritable &= granted
    sets.ambient &= granted
    sets.ignored = tuple(sorted(ignored))
    return sets


def _mask(names: "list[str] | tuple[str, ...] | None", last: int, ignored: set[str]) -> int:
    bits = 0
    for name in names or ():
        number = _NUMBERS.get(name)
        if number is None or number > last:
            ignored.add(name)
        else:
            bits |= 1 << number
    return bits


def add(caps: "Capabilities", extra: list[str]) -> None:
    """Give a process's configuration more capabilities (`exec --cap`).

    They join bounding, effective and permitted; ambient only where the configuration already lets
    them be inherited; inheritable never (CVE-2022-29162).
    """
    for name in extra:
        caps.bounding = _with(caps.bounding, name)
        caps.effective = _with(caps.effective, name)
        caps.permitted = _with(caps.permitted, name)
        if name in (caps.inheritable or ()):
            caps.ambient = _with(caps.ambient, name)


def _with(present: list[str] | None, name: str) -> list[str]:
    present = present or []
    return present if name in present else [*present, name]


def drop_bounding(sets: Sets) -> None:
    """Drop everything from the bounding set that `sets.bounding` lacks. Needs CAP_SETPCAP if that is any.

    Raises `PermissionDenied` when the kernel refuses.
    """
    prctl = _libc().prctl
    # Which is the last is asked of the kernel: init is inside the container, whose /proc may tell anything.
    for number in range(_MOST):
        if sets.bounding >> number & 1 or prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) >= 0:
            continue
        code = ctypes.get_errno()
        held = prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
        if held < 0:
            return  # no such capability, and so none above it
        if held:
            raise PermissionDenied(
                f"cannot drop {_label(number)} from the bounding set: {os.strerror(code)} (needs CAP_SETPCAP)"
            )


def keep(on: bool) -> None:
    """Whether the permitted set survives a change from uid 0 (PR_SET_KEEPCAPS); exec resets it."""
    if _libc().prctl(_PR_SET_KEEPCAPS, int(on), 0, 0, 0) < 0:
        raise Unknown(f"prctl PR_SET_KEEPCAPS: {os.strerror(ctypes.get_errno())}")


def set_sets(sets: Sets) -> list[str]:
    """Set permitted, effective and inheritable, then ambient, of the calling thread (capset(2)).

    Returns a warning for each ambient capability that the kernel refuses (it must be permitted and
    inheritable): runc goes on without it, and so do we. Raises `PermissionDenied` when the other sets
    ask for more than the process has.
    """
    if _libc().capset(*capset_arguments(sets.effective, sets.permitted, sets.inheritable)) < 0:
        code = ctypes.get_errno()
        raise PermissionDenied(f"unable to apply caps: {libc.words(code)}{_why_refused(sets)}")
    return _set_ambient(sets.ambient)


def capset_arguments(effective: int, permitted: int, inheritable: int) -> "tuple[_Words, _Words]":
    """The header and the data of capset(2) for the calling thread."""
    words = []
    for shift in (0, 32):
        words += [bits >> shift & 0xFFFFFFFF for bits in (effective, permitted, inheritable)]
    return (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)(*words)


def lendable(sets: Sets, uid: int) -> int:
    """What a user may need to reach its program and would lose by an exec before that.

    Effective capabilities count when execve(2) looks for the file, and are gone after it unless they are
    ambient, or the user is root.
    """
    if uid == 0:
        return 0
    return sets.effective & sets.permitted & sets.bounding & ~(sets.ambient & sets.inheritable) & _SEARCHING


def lend(sets: Sets, bits: int) -> None:
    """After `set_sets`: let capabilities survive one exec. Whatever that executes must take them back, by
    `lower_ambient` and capset(2), or they become the program's. Raises `PermissionDenied`.
    """
    if _libc().capset(*capset_arguments(sets.effective, sets.permitted, sets.inheritable | bits)) < 0:
        raise PermissionDenied(f"can't apply capabilities: {os.strerror(ctypes.get_errno())}")
    for number in range(bits.bit_length()):
        if bits >> number & 1 and _libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0:
            raise PermissionDenied(
                f"can't raise ambient capability {_label(number)}: {os.strerror(ctypes.get_errno())}"
            )


def lower_ambient(number: int) -> tuple[int, int, int]:
    """The arguments of the prctl(2) that takes a capability out of the ambient set."""
    return _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, number


def _why_refused(sets: Sets) -> str:
    """The rules of capset(2) that a refused set breaks, in words."""
    try:
        have = current()
    except (OSError, ValueError):  # the container's /proc may be anything
        return ""
    broken = (
        ("permitted, but not permitted before", sets.permitted & ~have.permitted),
        ("effective, but not permitted", sets.effective & ~sets.permitted),
        ("inheritable, but not in the bounding set", sets.inheritable & ~(have.inheritable | have.bounding)),
    )
    return "".join(f"; {rule}: {', '.join(names(bits))}" for rule, bits in broken if bits)


def _set_ambient(bits: int) -> list[str]:
    prctl = _libc().prctl
    # EINVAL: kernels before 4.3 have no ambient set
    if prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 and ctypes.get_errno() != _EINVAL:
        raise PermissionDenied(f"can't clear ambient capabilities: {os.strerror(ctypes.get_errno())}")
    warnings = []
    for number in range(bits.bit_length()):
        if not bits >> number & 1:
            continue
        if prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0:
            reason = os.strerror(ctypes.get_errno())
            warnings.append(f"can't raise ambient capability {_label(number)}: {reason}")
    return warnings


def grantable(own_user_namespace: bool) -> int:
    """What a process of a container can get: what we have or, in a user namespace, everything."""
    if own_user_namespace:
        return ~0
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if _libc().capget(header, data) < 0:
        raise Unknown(f"capget: {os.strerror(ctypes.get_errno())}")
    return data[1] | data[4] << 32


def current() -> Sets:
    """The sets of the calling process, from /proc/self/status."""
    keys = {b"CapBnd": "bounding", b"CapEff": "effective", b"CapPrm": "permitted", b"CapInh": "inheritable"}
    keys[b"CapAmb"] = "ambient"
    found = Sets()
    with open("/proc/thread-self/status", "rb") as file:
        for line in file:
            key, _, value = line.partition(b":")
            if key in keys:
                setattr(found, keys[key], int(value, 16))
    return found


def _label(number: int) -> str:
    return NAMES[number] if number < len(NAMES) else f"capability {number}"


_handle: "ctypes.CDLL | None" = None


def _libc() -> "ctypes.CDLL":
    """libc with the two prototypes used here; a handle of our own, so that no one else's differ."""
    global _handle
    if _handle is None:
        _handle = ctypes.CDLL(None, use_errno=True)
        _handle.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
        _handle.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        _handle.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return _handle
