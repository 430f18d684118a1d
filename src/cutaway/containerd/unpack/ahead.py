"""An iterator that works ahead on a thread of its own, so far and no further."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Iterator

# As much as a few files of a reader that is slow.
SIZE = 4 << 20


class Ahead:
    """Chunks of an iterator, made before they are asked for: up to `size` bytes. For one reader."""

    def __init__(self, chunks: Iterator[bytes], size: int = SIZE) -> None:
        self._chunks = chunks
        self._ready: deque[bytes] = deque()
        self._limit, self._size = size, 0
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
            chunk = self._ready.popleft()
            if self._size >= self._limit:
                self._change.notify()
            self._size -= len(chunk)
            return chunk

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
            while self._size >= self._limit and not self._closed:
                self._change.wait()
            self._ready.append(chunk)
            self._size += len(chunk)
            self._change.notify()
            return not self._closed
