"""What attacks on the runtime share besides their fixtures."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cutaway.linux.trampoline import Trampoline
from support.peers import VENV_BIN

# What is executed with a descriptor of what it has been executed from: tell what that is, and overwrite it.
OVERWRITE = """
readlink /proc/self/fd/3 > /loot/exe
i=0
while [ $i -lt 100 ]; do
    if (echo overwritten > /proc/self/fd/3) 2> /dev/null; then break; fi
    i=$((i + 1))
    sleep 0.02
done
echo > /loot/done
"""


class Host:
    """The files of the host that are at stake: a copy of the interpreter, and the runtime's script for it."""

    def __init__(self, place: Path) -> None:
        self.interpreter = place / "python3"
        self.script = place / "cutaway-runc"
        shutil.copy(os.path.realpath(sys.executable), self.interpreter)
        packages = [path for path in sys.path if path.startswith(os.fspath(VENV_BIN.parent))]
        source = Path(__file__).parents[2] / "src"
        self.script.write_text(
            f"#!{self.interpreter}\n"
            f"import sys\nsys.path[:0] = {[os.fspath(source), *packages]!r}\n"
            "from cutaway.runc.main import main\nsys.exit(main())\n"
        )
        self.script.chmod(0o755)
        self._before = self._contents()

    def _contents(self) -> tuple[bytes, bytes]:
        return self.interpreter.read_bytes(), self.script.read_bytes()

    def intact(self) -> bool:
        return self._contents() == self._before


@contextmanager
def console_socket(place: Path) -> Iterator[Path]:
    """A socket that takes terminals and does nothing with them."""
    path = place / "console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        yield path
    path.unlink()


def untouched(outside: Path) -> bool:
    """Whether it is still as it was made."""
    return sorted(os.listdir(outside)) == ["file"] and (outside / "file").read_text() == "host\n"


_ENTRY = 24  # of the entry point's address in an ELF header


def standalone(made: Trampoline) -> bytes:
    """A program that makes a trampoline's calls, executed as any other: no tool of busybox makes them."""
    image = bytearray(made.image(os.uname().machine))
    # It is not executed as a trampoline is: enter behind the look at its arguments.
    (entry,) = struct.unpack_from("<Q", image, _ENTRY)
    struct.pack_into("<Q", image, _ENTRY, entry + _behind_the_check(image[176:]))
    return bytes(image)


def _behind_the_check(code: bytearray) -> int:
    """Where the address of the calls is loaded, into rbx or x20."""
    if os.uname().machine == "x86_64":
        return code.index(b"\xbb")
    words = struct.unpack_from("<64I", code)
    return 4 * next(at for at, word in enumerate(words) if word & 0xFFE0001F == 0xD2800014)
