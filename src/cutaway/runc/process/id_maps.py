"""Giving a new user namespace its maps: directly, or by newuidmap and newgidmap.

Without privileges the kernel takes only a map of one's own single id, and the groups only once
setgroups(2) is given up in the namespace (CVE-2014-8989). The two programs of shadow, which are setuid,
write what /etc/subuid and /etc/subgid allow their caller.
"""

import os

from cutaway.errors import FailedPrecondition
from cutaway.linux import libc, namespaces
from cutaway.runc import rootless

TYPE_CHECKING = False
if TYPE_CHECKING:
    Map = list[tuple[int, int, int]]

_OUTPUT_LIMIT = 4096


def write(pid: int, uid_map: "Map", gid_map: "Map") -> None:
    """Set both maps of a process that waits for them. Raises OSError, `FailedPrecondition`."""
    if rootless.unprivileged() and gid_map == [(0, os.getegid(), 1)]:
        namespaces.deny_setgroups(pid)
    for kind, mappings in (("uid", uid_map), ("gid", gid_map)):
        try:
            namespaces.write_id_map(pid, kind, mappings)
        except PermissionError:
            if not rootless.unprivileged():
                raise
            _by_helper(f"new{kind}map", kind, pid, mappings)


def _by_helper(name: str, kind: str, pid: int, mappings: "Map") -> None:
    program = _find(name)
    if program is None:
        raise FailedPrecondition(
            f"mapping tool not present: {name} is not in $PATH, and without it only one's own {kind} can be "
            f"mapped (linux.{kind}Mappings; install the package uidmap)"
        )
    words = [str(number) for mapping in mappings for number in mapping]
    status, said = _run(program, [name, str(pid), *words])
    if status:
        reason = said.strip().removeprefix(f"{name}: ") or _ending(status)
        raise FailedPrecondition(f"failed to use {name} (see /etc/sub{kind}): {reason}")


def _find(name: str) -> str | None:
    for directory in os.environ.get("PATH", "").split(":"):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def _run(program: str, words: list[str]) -> tuple[int, str]:
    """Run a helper with no environment; its wait status, and what it said on stderr."""
    ours, theirs = os.pipe()
    try:
        pid = os.posix_spawn(program, words, {}, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 2)])
    except OSError as error:
        os.close(ours)
        raise FailedPrecondition(f"fork/exec {program}: {libc.words(error.errno or 0)}") from None
    finally:
        os.close(theirs)
    try:
        said = b""
        while (chunk := os.read(ours, _OUTPUT_LIMIT)) and len(said) < _OUTPUT_LIMIT:
            said += chunk
    finally:
        os.close(ours)
        status = os.waitpid(pid, 0)[1]
    return status, said.decode(errors="replace")


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
