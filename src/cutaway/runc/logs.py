"""The runtime's log: where a shim looks for the reason of a failure.

With `--log FILE` each line goes there, as JSON or text, and an error's bare message to stderr as well;
without, text lines go to stderr. The last error's `msg` is what containerd's shim reports.
"""

import os
import time

from cutaway.errors import InvalidArgument
from cutaway.linux import libc

TEXT, JSON = "text", "json"

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Log:
    """Writes log lines. Each is one write(2), so lines of several processes do not mix."""

    def __init__(self) -> None:
        self._fd = 2
        self._format = TEXT
        self._debug = False

    def configure(self, path: str, form: str, debug: bool) -> None:
        """Open the log as the global options say. Raises `InvalidArgument`."""
        if form not in (TEXT, JSON):
            raise InvalidArgument(f"invalid log-format: {form}")
        self._format = form
        self._debug = debug
        if path and path != "/dev/stderr":
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
            try:
                self._fd = os.open(path, flags, 0o644)
            except OSError as error:
                raise InvalidArgument(f"open {path}: {libc.words(error.errno or 0)}") from None

    def close(self) -> None:
        if self._fd > 2:
            os.close(self._fd)
        self._fd = 2

    def debug(self, message: str) -> None:
        if self._debug:
            self._write("debug", message)

    def warning(self, message: str) -> None:
        self._write("warning", message)

    def error(self, message: str) -> None:
        """Log an error; where the log is a file, tell stderr too."""
        self._write("error", message)
        if self._fd != 2:
            _write_all(2, message + "\n")

    def _write(self, level: str, message: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._format == JSON:
            from cutaway.oci import jsontext

            line = jsontext.dumps({"level": level, "msg": message, "time": now})
        else:
            line = f'time="{now}" level={level} msg={quote(message)}'
        _write_all(self._fd, line + "\n")


def _write_all(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode(errors="backslashreplace"))
    except OSError:
        return  # a log nobody can be told of: the exit code still speaks


def quote(text: str) -> str:
    """A value as it stands in a text line: bare when plain, else as a Go string."""
    if text and _PLAIN.issuperset(text):
        return text
    return (
        '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text) + '"'
    )
