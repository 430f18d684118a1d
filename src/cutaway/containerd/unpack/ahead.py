"""An iterator that works ahead on a thread of its own, so far and no further."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Iterator

# With chunks of a quarter of a MiB, as much as a file or two of a reader that is slow.
DEPTH = 16


class Ahead:
    """Chunks of an iterator, made before they are asked for. For one reader."""

    def __init__(self, chunks: Iterator[bytes], depth: int = DEPTH) -> None:
        self._chunks = chunks
        self._ready: deque[bytes] = deque()
        self._depth = depth
        self._change = threading.Condition(threading.Lock())
        self._failure: BaseException | None = None
        self._ended = self._closed = False
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="inflate", daemon=True)
        self._thread.start()

    def next(self) -> bytes:
        """The next chunk, b"" at the end. Raises what the iterator raised, after all chunks before it."""
        with self._change:
            while not self._ready:
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return b""
                self._change.wait()
            if len(self._ready) == self._depth:
                self._change.notify()
            return self._ready.popleft()

    def close(self) -> None:
        """Have the thread end, and wait for it."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            for chunk in self._chunks:
                if chunk and not self._put(chunk):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the chunks are read
            self._failure = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify()

    def _put(self, chunk: bytes) -> bool:
        """Hand a chunk over when there is room; False if nobody wants it any more."""
        with self._change:
            while len(self._ready) >= self._depth and not self._closed:
                self._change.wait()
            self._ready.append(chunk)
            self._change.notify()
            return not self._closed
