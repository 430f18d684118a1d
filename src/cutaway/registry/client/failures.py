"""Seam 2's failures as the error classes of this program, in Docker's words: the only place that maps them.

A registry answers an error with a status and `{"errors": [{"code", "message", "detail"}]}`; Docker shows
the first as `code in words: message`. Source: distribution-spec, "Error Codes"; the texts are Docker's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from cutaway import errors
from cutaway.registry.reference import Reference

MAX_TEXT: Final = 1000  # characters of a registry's own words that we pass on

_CODE_OF_STATUS: Final = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NOT_FOUND", "not found"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}
_CLASS_OF_CODE: Final[dict[str, type[errors.CutawayError]]] = {
    "BLOB_UNKNOWN": errors.NotFound,
    "DENIED": errors.NotFound,  # Docker's class: a private name and a missing one look the same
    "DIGEST_INVALID": errors.DataLoss,
    "MANIFEST_BLOB_UNKNOWN": errors.NotFound,
    "MANIFEST_INVALID": errors.InvalidArgument,
    "MANIFEST_UNKNOWN": errors.NotFound,
    "NAME_INVALID": errors.InvalidArgument,
    "NAME_UNKNOWN": errors.NotFound,
    "NOT_FOUND": errors.NotFound,
    "SIZE_INVALID": errors.DataLoss,
    "TAG_INVALID": errors.InvalidArgument,
    "TOOMANYREQUESTS": errors.ResourceExhausted,
    "UNAUTHORIZED": errors.Unauthenticated,
    "UNAVAILABLE": errors.Unavailable,
    "UNSUPPORTED": errors.Unimplemented,
}


class RegistryUnreachable(errors.Unavailable):
    """No connection to a registry: DNS, connect or TLS."""


@dataclass(frozen=True)
class Answer:
    """What a registry said to a request that it did not grant."""

    status: int
    body: bytes
    url: str
    scope_denied: bool = False
    """The challenge that came with a 401 says that the token lacks the right."""


def failure(answer: Answer, reference: Reference, *, pushing: bool = False) -> errors.CutawayError:
    """The error for a request on behalf of a pull, or push, of `reference`."""
    code, message = _first_error(answer)
    if answer.scope_denied and code == "UNAUTHORIZED":
        code, message = _CODE_OF_STATUS[403][0], _CODE_OF_STATUS[403][1]
    if answer.status == 429:
        code = "TOOMANYREQUESTS"
    kind = _CLASS_OF_CODE.get(code, errors.Unavailable if answer.status >= 500 else errors.Unknown)
    text = f"{code.lower().replace('_', ' ')}: {message}"
    return kind(text if pushing else _in_context(code, text, reference))


def token_failure(status: int, body: bytes, url: str) -> errors.CutawayError:
    """The error for a token that was refused, in the service's own words where it has any."""
    message = _first_error(Answer(status, body, url))[1]
    if status in (401, 403):
        if message in (default[1] for default in _CODE_OF_STATUS.values()):
            message = "incorrect username or password"
        return errors.Unauthenticated(f"unauthorized: {message}")
    if status == 429:
        return errors.ResourceExhausted(f"toomanyrequests: {message}")
    kind = errors.Unavailable if status >= 500 else errors.Unknown
    return kind(f"token service {url} answered {status}: {message}")


def _in_context(code: str, text: str, reference: Reference) -> str:
    if code == "DENIED":
        name = reference.familiar_name
        return (
            f"pull access denied for {name}, repository does not exist or may require 'docker login': {text}"
        )
    if code in ("MANIFEST_UNKNOWN", "NOT_FOUND"):
        return f"manifest for {reference.familiar} not found: {text}"
    if code == "NAME_UNKNOWN":
        return f"repository {reference.familiar_name} not found: {text}"
    return text


def _first_error(answer: Answer) -> tuple[str, str]:
    """The code and message of the first error in the body, or what the status stands for."""
    default = _CODE_OF_STATUS.get(
        answer.status, (f"HTTP_{answer.status}", f"received unexpected HTTP status from {answer.url}")
    )
    try:
        document = json.loads(answer.body)
        if isinstance(document.get("details"), str):  # Docker Hub's own form
            return default[0], one_line(document["details"])
        error = document["errors"][0]
        code, message = error["code"], error.get("message") or default[1]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return default
    if not (isinstance(code, str) and isinstance(message, str)):
        return default
    return one_line(code), one_line(message)


def one_line(text: str) -> str:
    """A peer's words made safe to show: one line, printable, of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT]).strip()
