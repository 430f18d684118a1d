"""gRPC statuses of containerd as the error classes of this program: the only place that maps them.

containerd's codes follow google.rpc.Code; its texts end with the class in words ("...: not found").
"""

from __future__ import annotations

import grpc
import grpc.aio

from cutaway import errors

CLASS_OF_CODE: dict[grpc.StatusCode, type[errors.CutawayError]] = {
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNKNOWN: errors.Unknown,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRange,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    grpc.StatusCode.INTERNAL: errors.Unknown,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DATA_LOSS: errors.DataLoss,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
}


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> errors.CutawayError:
    """The expected failure behind a failed call to the containerd that listens at `address`."""
    kind = CLASS_OF_CODE.get(error.code(), errors.Unknown)
    details = error.details() or error.code().name.lower().replace("_", " ")
    if kind is errors.Unavailable:
        return errors.Unavailable(f"containerd at {address} does not answer: {details}")
    return kind(details)


def was_not_sent(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed for want of a connection: it has done nothing, and may be made again.

    gRPC has no other sign of it than its own words.
    """
    text = error.details() or ""
    return error.code() is grpc.StatusCode.UNAVAILABLE and text.startswith(
        "failed to connect to all addresses"
    )
