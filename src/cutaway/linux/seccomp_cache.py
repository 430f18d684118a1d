"""Compiled filters, kept by the hash of what they were compiled from.

A cached program decides what a container may do, so it is taken only from a directory and a file that
belong to us and that nobody else can write, and never by a name that an attacker could have chosen: the
key is a SHA-256 over the whole configuration, this module's format, the machine, the kernel's release and
libseccomp's version. A file that is short, torn or damaged fails its checksum and is compiled anew.
"""

import os
import stat

from cutaway.linux.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Seccomp

FORMAT = 1
_DIGEST = 32


def compiled(config: "Seccomp", directory: str) -> bytes:
    """The program for a configuration, from the cache or compiled and put there.

    A cache that cannot be used (not ours, read-only, full) is passed over: it saves time, no more.
    """
    from cutaway.linux import seccomp_compile

    system = os.uname()
    library = seccomp_compile.version()
    key = sha256(repr((FORMAT, system.machine, system.release, library, config)).encode()).hex()
    folder = _open_folder(directory)
    if folder is None:
        return seccomp_compile.compile(config)
    try:
        program = _read(folder, key)
        if program is None:
            program = seccomp_compile.compile(config)
            _write(folder, key, program)
        return program
    finally:
        os.close(folder)


def _open_folder(directory: str) -> int | None:
    """The cache's directory, made if need be; None unless it is ours alone."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if _ours_alone(fd):
        return fd
    os.close(fd)
    return None


def _ours_alone(fd: int) -> bool:
    info = os.fstat(fd)
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(folder: int, key: str) -> bytes | None:
    try:
        fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _ours_alone(fd):
            return None
        data = os.read(fd, 1 << 16)
    finally:
        os.close(fd)
    digest, program = data[:_DIGEST], data[_DIGEST:]
    return program if program and sha256(program) == digest else None


def _write(folder: int, key: str, program: bytes) -> None:
    """Under another name first: readers see the whole file or none."""
    temporary = f".{key}.{os.getpid()}"
    try:
        mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, mode, 0o600, dir_fd=folder)
        try:
            os.write(fd, sha256(program) + program)
        finally:
            os.close(fd)
        os.rename(temporary, key, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _forget(folder, temporary)


def _forget(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return  # never made, or on a file system that cannot be written
