"""Every failure as Docker's API puts it: a status and {"message": "..."}. The only place that maps them."""

from __future__ import annotations

import json
from typing import Final

from aiohttp import web

from cutaway import errors

STATUS: Final[dict[type[errors.CutawayError], int]] = {
    errors.InvalidArgument: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.FailedPrecondition: 409,
    errors.Aborted: 409,
    errors.OutOfRange: 400,
    errors.ResourceExhausted: 507,
    errors.Unimplemented: 501,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 500,
    errors.Cancelled: 500,
    errors.DataLoss: 500,
    errors.Unknown: 500,
}
NOT_FOUND_TEXT: Final = "page not found"


def status_of(error: errors.CutawayError) -> int:
    """The HTTP status of an expected failure; a subclass has its parent's."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(status: int, message: str) -> web.Response:
    """A failure as JSON. Clients compare the content type as a whole: it must not name a charset."""
    text = json.dumps({"message": message}, separators=(",", ":"), ensure_ascii=False) + "\n"
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": "application/json"})


def from_exception(error: Exception) -> web.Response:
    """The answer to a request that failed. Anything unexpected is our bug, and is told as one."""
    if isinstance(error, errors.CutawayError):
        return error_response(status_of(error), error.message)
    if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        return error_response(404, NOT_FOUND_TEXT)
    if isinstance(error, web.HTTPException):
        return error_response(error.status, error.text or error.reason)
    return error_response(500, f"internal error: {type(error).__name__}: {error}")
