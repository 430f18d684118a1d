"""Where a shim listens, and which version of the task service it speaks.

    unix:///run/containerd/s/...                                          a shim of containerd 1.x
    {"version": 3, "address": "unix:///...", "protocol": "ttrpc"}         a shim of containerd 2.0 to 2.2
    BootstrapResult (protobuf) with the same                               a shim of containerd 2.3 and newer

The first is what shims write into the bundle's `address` themselves; the second form of the others is kept as
`bootstrap.json` by the daemon. Source: containerd's core/runtime/v2/shim.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from cutaway.errors import Unknown
from cutaway.pb.bootstrap_pb2 import BootstrapResult

SCHEME = "unix://"
LATEST = 3


@dataclass(frozen=True)
class Endpoint:
    path: str
    version: int = 2

    def to_json(self) -> str:
        """As containerd keeps it."""
        return json.dumps({"version": self.version, "address": SCHEME + self.path, "protocol": "ttrpc"})


def parse(said: bytes | str) -> Endpoint:
    """What a shim's `start` printed. Raises `Unknown` for anything else than a Unix socket of ttrpc."""
    if isinstance(said, bytes) and (result := _result(said)):
        text = result.address
        address, version, protocol = result.address, result.version, result.protocol
    else:
        text = (said if isinstance(said, str) else said.decode(errors="replace")).strip()
        address, version, protocol = _fields(text) if text.startswith("{") else (text, 2, "ttrpc")
    if not (isinstance(address, str) and address.startswith(SCHEME)) or "\n" in address:
        raise Unknown(f"{text[:200]!r} is not the address of a socket")
    if protocol != "ttrpc":
        raise Unknown(f"a shim that speaks {protocol!r} is not supported: only ttrpc is")
    if version not in (2, LATEST):
        raise Unknown(f"unsupported shim version ({version}): not implemented")
    return Endpoint(address.removeprefix(SCHEME), version)


def _result(said: bytes) -> BootstrapResult | None:
    """The message of a shim of 2.3, which begins with its version: a byte that no text begins with."""
    if not said.startswith(b"\x08"):
        return None
    try:
        return BootstrapResult.FromString(said)
    except DecodeError:
        return None


def _fields(text: str) -> tuple[Any, Any, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        raise Unknown(f"{text[:200]!r} is not the address of a socket") from None
    return told.get("address"), told.get("version"), told.get("protocol")
