"""Failures as ttrpc status: the codes are gRPC's (google.rpc.Code). The one mapping of this seam."""

from __future__ import annotations

from cutaway import errors

CODES: dict[type[errors.CutawayError], int] = {
    errors.Cancelled: 1,
    errors.Unknown: 2,
    errors.InvalidArgument: 3,
    errors.DeadlineExceeded: 4,
    errors.NotFound: 5,
    errors.AlreadyExists: 6,
    errors.PermissionDenied: 7,
    errors.ResourceExhausted: 8,
    errors.FailedPrecondition: 9,
    errors.Aborted: 10,
    errors.OutOfRange: 11,
    errors.Unimplemented: 12,
    errors.Unavailable: 14,
    errors.DataLoss: 15,
    errors.Unauthenticated: 16,
}

# With these words containerd ends what a shim says. Clients look for them.
ENDINGS: dict[type[errors.CutawayError], str] = {
    errors.InvalidArgument: "invalid argument",
    errors.AlreadyExists: "already exists",
    errors.NotFound: "not found",
    errors.Unavailable: "unavailable",
    errors.FailedPrecondition: "failed precondition",
    errors.Unimplemented: "not implemented",
    errors.Cancelled: "context canceled",
    errors.DeadlineExceeded: "context deadline exceeded",
    errors.Unknown: "unknown",
}

_CLASSES = {code: kind for kind, code in CODES.items()}


def code_of(error: errors.CutawayError) -> int:
    return CODES[type(error)]


def error_of(code: int, message: str) -> errors.CutawayError:
    """The error a peer answered with, its text ending as containerd's would.

    A code that we do not know is `Unknown`.
    """
    kind = _CLASSES.get(code, errors.Unknown)
    ending = ENDINGS.get(kind)
    if ending is None or message == ending or message.endswith(f": {ending}"):
        return kind(message)
    return kind(f"{message}: {ending}" if message else ending)
