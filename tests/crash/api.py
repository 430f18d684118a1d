"""The Engine API for a client that loses its engine often: what is refused, and what broke off."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any

from support.stack import Engine, UnixConnection

TIMEOUT = 60.0


class Failed(Exception):
    """A request was not answered with success."""


class Refused(Failed):
    """The engine has answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


class Broken(Failed):
    """There was no answer, or not all of it."""


class Api:
    """One engine's socket; every request has a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def send(self, method: str, path: str, body: object = None) -> bytes:
        """The whole answer. `body` is bytes, or sent as JSON. Raises `Refused`, `Broken`."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        connection = UnixConnection(self._engine.socket, TIMEOUT)
        try:
            connection.request(method, path, data, {} if data is None else {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException, ValueError) as error:
            raise Broken(f"{method} {path}: {error!r}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, f"{method} {path}: {text.decode(errors='replace')[:400]}")
        return text

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer as a document, None for nothing."""
        text = self.send(method, path, body)
        return json.loads(text) if text.strip() else None

    def follow(self, method: str, path: str, body: object = None) -> None:
        """A request whose progress is told line by line; the last one says how it ended."""
        for line in self.send(method, path, body).splitlines():
            if b'"error"' in line:
                raise Refused(500, f"{method} {path}: {line.decode(errors='replace')[:400]}")

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def post(self, path: str, body: object = None) -> Any:
        return self.ask("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.ask("DELETE", path)
