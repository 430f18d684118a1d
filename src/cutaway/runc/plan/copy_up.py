"""`tmpcopyup`: fill a tmpfs with what the image has at its place, before it covers it."""

import os
import stat

from cutaway.errors import ResourceExhausted

_CHUNK = 1 << 20
_DEPTH = 100  # an image nests no deeper for honest reasons


def copy(source: int, target: int) -> None:
    """Copy a directory's content from one descriptor (O_PATH) to another: files, links, owners, modes.

    Links are copied as links; devices and sockets are left out. Raises OSError, and
    `ResourceExhausted` for a tree nested too deeply.
    """
    _directory(source, target, ".", _DEPTH)


def _directory(source: int, target: int, name: str, depth: int) -> None:
    if depth == 0:
        raise ResourceExhausted(f"tmpcopyup: directories nested deeper than {_DEPTH}")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    here, there = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                _entry(here, there, entry.name, depth)
        found = os.fstat(here)
        os.fchown(there, found.st_uid, found.st_gid)
    finally:
        os.close(here)
        os.close(there)


def _entry(here: int, there: int, name: str, depth: int) -> None:
    found = os.stat(name, dir_fd=here, follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(name, mode, dir_fd=there)
        _directory(here, there, name, depth - 1)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=there, follow_symlinks=False)
    elif stat.S_ISREG(found.st_mode):
        _file(here, there, name, found)


def _file(here: int, there: int, name: str, found: os.stat_result) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=there)
        try:
            while os.sendfile(target, source, None, _CHUNK):
                pass
            os.fchown(target, found.st_uid, found.st_gid)
            os.fchmod(target, stat.S_IMODE(found.st_mode))
        finally:
            os.close(target)
    finally:
        os.close(source)
