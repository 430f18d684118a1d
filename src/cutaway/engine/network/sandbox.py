"""Network namespaces that live without a process: each bound to a file, as `ip netns` does it.

A namespace belongs to a thread, and /proc/thread-self/ns/net names it; so one is made on a short-lived
thread that unshares, binds that name to a file and does what is to be done inside (netns(7)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from cutaway.errors import CutawayError, FailedPrecondition, PermissionDenied, Unknown

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 0x1000
_MNT_DETACH: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def create(path: Path, inside: Callable[[int], T]) -> T:
    """Make a namespace, bind it to `path`, and call `inside` in it with a descriptor of it.

    Whatever fails, neither mount nor file is left. Raises what `inside` raises.
    """

    def work() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "create a network namespace")
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _bind(path)
            try:
                return inside(descriptor)
            except BaseException:
                remove(path)
                raise
        finally:
            os.close(descriptor)

    return on_a_thread(work)


def remove(path: Path) -> None:
    """Give a namespace up; the kernel takes it apart when nobody else uses it. Missing ones are no error."""
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) < 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):  # EINVAL: nothing is mounted there
            raise _failure(code, f"unmount {path}")
    path.unlink(missing_ok=True)


def is_alive(path: Path) -> bool:
    """Whether a namespace is bound to the file: it then is on another device than its folder."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


def on_a_thread(work: Callable[[], T]) -> T:
    """Call a function on a thread of its own that ends with it, so that what it unshares ends too."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised again in the caller)
            failures.append(error)

    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _bind(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.touch(mode=0o444)
    source = b"/proc/thread-self/ns/net"
    if _libc.mount(source, os.fsencode(path), None, _MS_BIND, None) < 0:
        code = ctypes.get_errno()
        path.unlink(missing_ok=True)
        raise _failure(code, f"bind a network namespace to {path}")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise _failure(ctypes.get_errno(), what)


def _failure(code: int, what: str) -> CutawayError:
    classes: dict[int, type[CutawayError]] = {
        errno.EPERM: PermissionDenied,
        errno.EACCES: PermissionDenied,
        errno.ENOSPC: FailedPrecondition,
    }
    return classes.get(code, Unknown)(f"network: cannot {what}: {os.strerror(code)}")
