"""The archive API of two engines, asked the same."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from support.stack import Engine, UnixConnection

STAT = "X-Docker-Container-Path-Stat"


@dataclass(frozen=True)
class Answer:
    """What an engine has said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        text: str = json.loads(self.body)["message"] if self.body else ""
        return text.strip()

    @property
    def stat(self) -> dict[str, Any]:
        """What the header says of the path."""
        found: dict[str, Any] = json.loads(base64.b64decode(self.headers[STAT]))
        return found

    @property
    def members(self) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.body)) as opened:
            return opened.getmembers()

    def content(self, name: str) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(self.body)) as opened:
            file = opened.extractfile(name)
            assert file is not None
            return file.read()


def archive(
    engine: Engine, method: str, container: str, path: str, body: bytes | None = None, **query: str
) -> Answer:
    """Ask for /containers/X/archive."""
    values = urllib.parse.urlencode({"path": path, **query})
    connection = UnixConnection(engine.socket)
    try:
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        target = f"/v1.41/containers/{container}/archive?{values}"
        connection.request(method, target, body, {"Accept-Encoding": "identity", **headers})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def described(answer: Answer) -> list[tuple[object, ...]]:
    """The members of a tar file as they can be compared."""
    return [
        (m.name, m.type, oct(m.mode & 0o7777), m.uid, m.gid, m.size, m.linkname, m.devmajor, m.devminor,
         int(m.mtime) > 0, sorted((key, value) for key, value in m.pax_headers.items() if "xattr" in key))
        for m in answer.members
    ]  # fmt: skip
