"""What a pull tells its caller, as the objects of Docker's stream: one JSON object for each step.

The texts and their order are Docker's; clients tell layers apart by `id` and draw bars from
`progressDetail`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cutaway.oci.image_spec import Descriptor

Event = dict[str, object]
Progress = Callable[[Event], None]
"""Takes one step; must not block."""

INTERVAL: Final = 0.1  # seconds between two reports on one layer
SHORT: Final = 12  # hexadecimal digits of a layer's digest that are shown


def silent(event: Event) -> None:
    """For pulls that nobody watches."""


def status(text: str, *, id: str = "") -> Event:
    """A line of the pull as a whole."""
    return {"status": text, "id": id} if id else {"status": text}


def stream(text: str) -> Event:
    """Text for the client to print as it is."""
    return {"stream": text}


class LayerProgress:
    """Reports on one layer, under its digest or another name for it."""

    def __init__(self, layer: Descriptor, report: Progress, digest: str = "") -> None:
        self._id = (digest or layer.digest).partition(":")[2][:SHORT]
        self._size = layer.size
        self._report = report
        self._next = 0.0

    def say(self, text: str) -> None:
        """A step without numbers: `Pulling fs layer`, `Waiting`, `Already exists`, `Pull complete`..."""
        self._report({"status": text, "progressDetail": {}, "id": self._id})

    def downloading(self, done: int) -> None:
        """Bytes fetched so far; told some times a second at most."""
        self._often("Downloading", done)

    def loading(self, done: int) -> None:
        """Bytes taken from an archive so far."""
        self._often("Loading layer", done)

    def pushing(self, done: int) -> None:
        """Bytes sent so far."""
        self._often("Pushing", done)

    def extracting(self, done: int) -> None:
        """Bytes unpacked so far: containerd tells only the beginning and the end."""
        self._numbers("Extracting", done)

    def _often(self, text: str, done: int) -> None:
        now = time.monotonic()
        if now >= self._next or done == self._size:
            self._next = now + INTERVAL
            self._numbers(text, done)

    def _numbers(self, text: str, done: int) -> None:
        detail = {"current": done, "total": self._size}
        bar = _bar(done, self._size)
        self._report({"status": text, "progressDetail": detail, "progress": bar, "id": self._id})


def _bar(done: int, total: int) -> str:
    """The bar as older clients print it."""
    filled = 50 * done // total if total else 50
    return f"[{'=' * filled}>{' ' * (50 - filled)}] {_human(done):>8}/{_human(total)}"


def _human(size: float) -> str:
    """Bytes with a decimal unit and about four digits, as docker/go-units writes them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}TB"
