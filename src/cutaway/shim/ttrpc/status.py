"""Our errors on this seam: google.rpc.Status codes and containerd's wording.

containerd's errdefs recognise an error by its code and repeat its class at the end of the text
("container not created: not found"); clients show that text.
"""

from cutaway import errors

# class -> (google.rpc.Code, the class in containerd's words, "" where it adds none)
CODES: dict[type[errors.CutawayError], tuple[int, str]] = {
    errors.Cancelled: (1, ""),
    errors.Unknown: (2, ""),
    errors.InvalidArgument: (3, "invalid argument"),
    errors.DeadlineExceeded: (4, ""),
    errors.NotFound: (5, "not found"),
    errors.AlreadyExists: (6, "already exists"),
    errors.PermissionDenied: (7, "permission denied"),
    errors.ResourceExhausted: (8, "resource exhausted"),
    errors.FailedPrecondition: (9, "failed precondition"),
    errors.Aborted: (10, "aborted"),
    errors.OutOfRange: (11, "out of range"),
    errors.Unimplemented: (12, "not implemented"),
    errors.Unavailable: (14, "unavailable"),
    errors.DataLoss: (15, "data loss"),
    errors.Unauthenticated: (16, "unauthenticated"),
}

_CLASSES = {code: cls for cls, (code, _) in CODES.items()}


def of(error: Exception) -> tuple[int, str]:
    """Code and message for whatever a call raised."""
    code, words = CODES.get(type(error), (2, "")) if isinstance(error, errors.CutawayError) else (2, "")
    message = _words(error)
    if words and message != words and not message.endswith(f": {words}"):
        message = f"{message}: {words}"
    return code, message


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def error(code: int, message: str) -> errors.CutawayError:
    """The error in a peer's answer. A code that is not ours (13, internal) is Unknown."""
    return _CLASSES.get(code, errors.Unknown)(message)
