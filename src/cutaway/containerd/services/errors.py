"""Failures as gRPC status: the one place where this seam maps them.

Texts are made where an error is raised, in containerd's wording, which ends with the class in words
(`image "x": not found`); clients print it and act on the code.
"""

from __future__ import annotations

import errno
import sqlite3

import grpc

from cutaway import errors

CODES: dict[type[errors.CutawayError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unknown: grpc.StatusCode.UNKNOWN,
}

# No room, or no more open files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error; UNKNOWN for what is no expected failure."""
    return CODES.get(type(as_expected(error)), grpc.StatusCode.UNKNOWN)


def as_expected(error: BaseException) -> errors.CutawayError:
    """An error as one of the closed set: what the system refused is put in words, the rest is `Unknown`."""
    if isinstance(error, errors.CutawayError):
        return error
    if isinstance(error, OSError):
        kind = errors.ResourceExhausted if error.errno in _FULL else errors.Unknown
        where = f" {error.filename}" if error.filename else ""
        return kind(f"{error.strerror or error}{where}")
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return errors.ResourceExhausted("metadata cannot be written: no space left on device")
    return errors.Unknown(f"internal error: {type(error).__name__}: {error}")
