"""Programs that keep passwords for us: `docker-credential-NAME get|store|erase`.

The protocol is docker's: a registry's address, or for `store` an object, on stdin; an object, or in
failure one line of text, on stdout. Source: docker/docker-credential-helpers, README.
"""

import os

from cutaway.cli import jsontext
from cutaway.errors import InvalidArgument, NotFound, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = "docker-credential-"
# What helpers say when they do not have what was asked for; there is no other way to tell.
ABSENT = "credentials not found in native keychain"
TOKEN = "<token>"


def get(helper: str, server: str) -> "tuple[str, str] | None":
    """User and secret for a registry, or None. Raises `Unknown` for what the helper complains of."""
    try:
        answer = jsontext.loads(_call(helper, "get", server), f"the answer of {PREFIX}{helper}")
    except NotFound:
        return None
    entry: dict[str, Any] = answer if isinstance(answer, dict) else {}
    return str(entry.get("Username") or ""), str(entry.get("Secret") or "")


def store(helper: str, server: str, user: str, secret: str) -> None:
    """Keep a secret. Raises `Unknown`, `InvalidArgument`."""
    entry = {"ServerURL": server, "Username": user, "Secret": secret}
    _call(helper, "store", jsontext.dumps(entry))


def erase(helper: str, server: str) -> None:
    """Forget a secret; one that is not there is no error. Raises `Unknown`, `InvalidArgument`."""
    try:
        _call(helper, "erase", server)
    except NotFound:
        return


def detect() -> str:
    """The helper that docker uses on Linux when none is configured, or "" if it is not installed."""
    import shutil

    name = "pass" if shutil.which("pass") else "secretservice"
    return name if shutil.which(PREFIX + name) else ""


def _call(helper: str, action: str, text: str) -> str:
    import subprocess

    if not helper or os.sep in helper:
        raise InvalidArgument(f"invalid credential helper {helper!r}: expected a name such as `pass`")
    try:
        done = subprocess.run(
            [PREFIX + helper, action], input=text, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise InvalidArgument(
            f"error getting credentials - err: exec: {PREFIX + helper!r}: {error.strerror}"
        ) from None
    if done.returncode == 0:
        return done.stdout
    said = done.stdout.strip()
    if said == ABSENT:
        raise NotFound(said)
    raise Unknown(f"error {action} credentials - err: exit status {done.returncode}, out: `{said}`")
