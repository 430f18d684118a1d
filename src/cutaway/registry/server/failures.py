"""Refusals in the distribution API's form, a status and `{"errors": [...]}`: the only place that maps them.

Source: distribution-spec, "Error Codes", and distribution's own registry where the spec leaves a choice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from cutaway import errors

log = logging.getLogger(__name__)

API_VERSION: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}

# class -> (HTTP status, code when the failure does not carry a more specific one)
_ANSWERS: Final[dict[type[errors.CutawayError], tuple[int, str]]] = {
    errors.InvalidArgument: (400, "UNSUPPORTED"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.AlreadyExists: (409, "DENIED"),
    errors.FailedPrecondition: (409, "DENIED"),
    errors.PermissionDenied: (403, "DENIED"),
    errors.Unauthenticated: (401, "UNAUTHORIZED"),
    errors.ResourceExhausted: (413, "SIZE_INVALID"),
    errors.Unavailable: (503, "UNAVAILABLE"),
    errors.DeadlineExceeded: (504, "UNAVAILABLE"),
    errors.Cancelled: (503, "UNAVAILABLE"),
    errors.Aborted: (409, "BLOB_UPLOAD_INVALID"),
    errors.OutOfRange: (416, "BLOB_UPLOAD_INVALID"),
    errors.Unimplemented: (405, "UNSUPPORTED"),
    errors.DataLoss: (400, "DIGEST_INVALID"),
    errors.Unknown: (500, "UNKNOWN"),
}


class Refusal(Exception):
    """An expected failure with the code that the distribution API has for it."""

    def __init__(self, code: str, error: errors.CutawayError) -> None:
        super().__init__(str(error))
        self.code = code
        self.error = error


def blob_unknown(digest: str) -> Refusal:
    return Refusal("BLOB_UNKNOWN", errors.NotFound(f"blob unknown to registry: {digest}"))


def manifest_unknown(name: str) -> Refusal:
    return Refusal("MANIFEST_UNKNOWN", errors.NotFound(f"manifest unknown: {name}"))


def name_unknown(name: str) -> Refusal:
    return Refusal("NAME_UNKNOWN", errors.NotFound(f"repository name not known to registry: {name}"))


def name_invalid(name: str) -> Refusal:
    return Refusal("NAME_INVALID", errors.InvalidArgument(f"invalid repository name: {name[:255]}"))


def tag_invalid(tag: str) -> Refusal:
    return Refusal("TAG_INVALID", errors.InvalidArgument(f"neither a tag nor a digest: {tag[:255]}"))


def digest_invalid(text: str) -> Refusal:
    return Refusal("DIGEST_INVALID", errors.InvalidArgument(text))


def upload_unknown(upload: str) -> Refusal:
    return Refusal("BLOB_UPLOAD_UNKNOWN", errors.NotFound(f"blob upload unknown to registry: {upload[:64]}"))


def manifest_invalid(text: str) -> Refusal:
    return Refusal("MANIFEST_INVALID", errors.InvalidArgument(text))


def manifest_blob_unknown(digest: str) -> Refusal:
    return Refusal(
        "MANIFEST_BLOB_UNKNOWN",
        errors.InvalidArgument(f"manifest references a manifest or blob unknown to registry: {digest}"),
    )


def answer(refusal: Refusal) -> web.Response:
    """The answer to a request that is refused."""
    status = _ANSWERS[type(refusal.error)][0]
    return _error(status, refusal.code, str(refusal))


def _error(status: int, code: str, message: str) -> web.Response:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {}}]})
    return web.Response(text=body, status=status, content_type="application/json", headers=API_VERSION)


@web.middleware
async def around(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Run a request's handler; whatever it raises becomes an answer in the API's form."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return answer(refusal)
    except errors.CutawayError as error:
        return answer(Refusal(_ANSWERS[type(error)][1], error))
    except web.HTTPRequestEntityTooLarge as error:
        return _error(413, "SIZE_INVALID", error.reason)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _error(404, "NOT_FOUND", f"{request.method} {request.path} is no part of the API")
    except OSError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return _error(503, "UNAVAILABLE", f"storage: {error.strerror or error}")
