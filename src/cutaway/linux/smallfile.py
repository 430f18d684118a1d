"""Small files, whole, by the system calls alone.

open() makes three objects and asks the kernel five questions before the first byte; for a pid or a
status that is most of the work.
"""

import os

_CHUNK = 1 << 16


def read(path: str) -> bytes:
    """The whole of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = chunk = os.read(fd, _CHUNK)
        while chunk:
            chunk = os.read(fd, _CHUNK)
            data += chunk
        return data
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
