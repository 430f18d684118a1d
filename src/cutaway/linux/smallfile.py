"""Small files, whole, by the system calls alone.

open() makes three objects and asks the kernel five questions before the first byte; for a pid or a
status that is most of the work.
"""

import os

_CHUNK = 1 << 16


def read(path: str, most: int = 1 << 62) -> bytes:
    """The whole of a file, or its beginning: no more is read when `most` bytes are. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = chunk = os.read(fd, _CHUNK)
        while chunk and len(data) < most:
            chunk = os.read(fd, _CHUNK)
            data += chunk
        return data
    finally:
        os.close(fd)


def read_at_once(path: str) -> bytes:
    """A file of the kernel that holds one line, by one read(2). Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _CHUNK)
    finally:
        os.close(fd)


def write(path: str, data: bytes, mode: int) -> None:
    """Make a file, or empty it, and write it whole; `mode` is subject to the umask. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
