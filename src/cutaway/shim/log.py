"""What the shim has to say that belongs into no reply: lines on stderr, which is the bundle's `log` FIFO.

containerd copies what it reads there into its own log, so the lines have the form of logrus' text
format, which is also ours.
"""

import os
import time

_level = "info"


def configure(debug: bool) -> None:
    global _level
    _level = "debug" if debug else "info"


def debug(message: str) -> None:
    if _level == "debug":
        _write("debug", message)


def warning(message: str) -> None:
    _write("warning", message)


def error(message: str) -> None:
    _write("error", message)


def failure(what: str, problem: BaseException) -> None:
    """A mistake of ours: with the traceback, for whoever mends it."""
    import traceback

    _write("error", f"{what}: {''.join(traceback.format_exception(problem)).rstrip()}")


def _write(level: str, message: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    quoted = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    try:
        os.write(2, f'time="{moment}" level={level} msg="{quoted}"\n'.encode())
    except OSError:
        return  # nobody reads the log, or it is full: not worth a container
