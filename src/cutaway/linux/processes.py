"""What a process can be told about itself and others: pidfd, start time, keyring, descriptors."""

import ctypes
import os

from cutaway.linux import libc, smallfile

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEYCTL_DESCRIBE = 6
_CLOSE_RANGE_CLOEXEC = 4
_ENOSYS, _EINVAL = 38, 22


def no_new_privileges() -> None:
    """Give up gaining privileges by exec, for good (PR_SET_NO_NEW_PRIVS). Raises OSError."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, what="prctl(SET_NO_NEW_PRIVS)")


def set_dumpable(on: bool) -> None:
    """Whether processes without CAP_SYS_PTRACE may look into this one through /proc; exec resets it."""
    libc.prctl(_PR_SET_DUMPABLE, int(on), what="prctl(SET_DUMPABLE)")


def set_subreaper() -> None:
    """Become the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER)."""
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, what="prctl(SET_CHILD_SUBREAPER)")


def set_name(name: str) -> None:
    """What `ps` shows for this process (15 bytes), so that a create that hangs says where."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer), what="prctl(SET_NAME)")


def status(pid: int) -> tuple[str, int] | None:
    """State letter and start time (clock ticks since boot) of a process, or None when there is none.

    A pid with its start time names one process for ever; a pid alone may have been reused
    (proc_pid_stat(5), fields 3 and 22).
    """
    try:
        text = smallfile.read_at_once(f"/proc/{pid}/stat")
    except OSError:
        return None
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    return fields[0].decode(), int(fields[19])


def alive(pid: int, start_time: int) -> bool:
    """Whether the very process runs that had this pid and start time; a zombie does not."""
    found = status(pid) if pid > 0 else None
    return found is not None and found[1] == start_time and found[0] not in ("Z", "X")


def pidfd_open(pid: int) -> int:
    """A descriptor for a process (pidfd_open(2), Linux 5.3). Raises OSError, ESRCH when it is gone."""
    return libc.syscall("pidfd_open", pid, 0, what=f"pidfd_open {pid}")


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send a signal without the risk of hitting a reused pid. Raises OSError, ESRCH when it is gone."""
    libc.syscall("pidfd_send_signal", pidfd, signal, None, 0, what=f"send signal {signal}")


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of another process's descriptor (pidfd_getfd(2), Linux 5.6). Raises OSError."""
    return libc.syscall("pidfd_getfd", pidfd, fd, 0, what=f"pidfd_getfd {fd}")


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from `first` on as closed by exec (close_range(2), flag since Linux 5.11)."""
    if libc.raw("close_range", first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC) >= 0:
        return
    code = ctypes.get_errno()
    if code not in (_ENOSYS, _EINVAL):
        libc.fail(code, f"close_range from {first}")
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd >= first:
            try:
                os.set_inheritable(fd, False)
            except OSError as error:
                if error.errno != 9:  # the descriptor of the listing itself
                    raise


def close_from(first: int, keep: "set[int] | frozenset[int]" = frozenset()) -> None:
    """Close every descriptor from `first` on but those in `keep`."""
    low = first
    for fd in sorted(keep):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    if libc.raw("close_range", low, 0xFFFFFFFF, 0) < 0:  # Linux 5.9
        os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def set_limit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a resource limit of another process (prlimit(2)). Not by the module resource, which is another
    library to load. Raises OSError."""
    libc.syscall("prlimit64", pid, resource, (ctypes.c_uint64 * 2)(soft, hard), None)


def close(fds: list[int]) -> None:
    """Close descriptors: those in a row by one call (close_range(2), Linux 5.9)."""
    in_a_row = len(fds) > 1 and fds == list(range(fds[0], fds[0] + len(fds)))
    if in_a_row and libc.raw("close_range", fds[0], fds[-1], 0) >= 0:
        return
    for fd in fds:
        os.close(fd)


def join_session_keyring(name: str) -> None:
    """Leave the caller's session keyring for a new one; without keyrings in the kernel, nothing.

    Its owner may then search it, and nobody else gains a right (keyctl(2)). Raises OSError.
    """
    result = libc.raw("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name)
    if result < 0:
        code = ctypes.get_errno()
        if code == _ENOSYS:
            return
        libc.fail(code, "unable to join session keyring")
    buffer = ctypes.create_string_buffer(256)
    if libc.raw("keyctl", _KEYCTL_DESCRIBE, result, buffer, len(buffer)) < 0:
        libc.fail(ctypes.get_errno(), "describe session keyring")
    permissions = int(buffer.value.split(b";")[3], 16)
    search_for_user = 0x80000
    libc.syscall(
        "keyctl",
        _KEYCTL_SETPERM,
        result,
        permissions | search_for_user,
        what="unable to mod keyring permissions",
    )


def personality(domain: int) -> None:
    """Set the execution domain (personality(2))."""
    libc.syscall("personality", domain)


def set_io_priority(kind: int, priority: int) -> None:
    """Set the calling process's I/O class and priority (ioprio_set(2))."""
    who_process = 1
    libc.syscall("ioprio_set", who_process, 0, kind << 13 | priority, what="ioprio_set")


def set_scheduler(
    policy: int, flags: int = 0, nice: int = 0, priority: int = 0, times: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Set the calling process's scheduling (sched_setattr(2)); times are runtime, deadline, period in ns."""
    attributes = ctypes.create_string_buffer(48)
    words32 = (ctypes.c_uint32 * 2).from_buffer(attributes, 0)
    words32[0], words32[1] = 48, policy
    ctypes.c_uint64.from_buffer(attributes, 8).value = flags
    ctypes.c_int32.from_buffer(attributes, 16).value = nice
    ctypes.c_uint32.from_buffer(attributes, 20).value = priority
    for index, value in enumerate(times):
        ctypes.c_uint64.from_buffer(attributes, 24 + 8 * index).value = value
    libc.syscall("sched_setattr", 0, attributes, 0, what="sched_setattr")
