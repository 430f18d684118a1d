"""The closed set of things that can go wrong, shared by every part.

    CutawayError
    ├── InvalidArgument      the request itself is wrong: bad name, bad JSON, bad flag
    ├── NotFound             the object named does not exist
    ├── AlreadyExists        the name is taken
    ├── FailedPrecondition   the object is in a state that forbids this
    ├── PermissionDenied     known caller, no right (also: refused by policy or the kernel)
    ├── Unauthenticated      caller not known: log in
    ├── ResourceExhausted    disk full, rate limit, size limit
    ├── Unavailable          the peer cannot be reached now; a retry may help
    ├── DeadlineExceeded     took longer than asked for
    ├── Cancelled            the caller went away
    ├── Aborted              lost a race; a retry starts afresh
    ├── OutOfRange           an offset beyond the end
    ├── Unimplemented        known, not built
    ├── DataLoss             bytes do not match their digest or size
    └── Unknown              everything else; always a bug or a broken peer

Each seam maps these classes in exactly one module of its own (HTTP status and Docker's text, gRPC
code, ttrpc status, runtime log), and a test proves that no class is unmapped. Inner code raises
them with the context inside the message: what, why and what to do, in one line.

This module is on the cold path of the runtime: it imports nothing.
"""


class CutawayError(Exception):
    """Base of all expected failures; `str(error)` is the one line a user reads."""

    @property
    def message(self) -> str:
        return str(self)


class InvalidArgument(CutawayError):
    """The request itself is wrong."""


class NotFound(CutawayError):
    """The object named does not exist."""


class AlreadyExists(CutawayError):
    """The name is taken."""


class FailedPrecondition(CutawayError):
    """The object is in a state that forbids this."""


class PermissionDenied(CutawayError):
    """The caller, or we ourselves, may not do this."""


class Unauthenticated(CutawayError):
    """The caller is not known; logging in may help."""


class ResourceExhausted(CutawayError):
    """Disk, rate or size limit reached."""


class Unavailable(CutawayError):
    """A peer cannot be reached now."""


class DeadlineExceeded(CutawayError):
    """It took longer than the caller allows."""


class Cancelled(CutawayError):
    """The caller went away."""


class Aborted(CutawayError):
    """Lost a race against another request."""


class OutOfRange(CutawayError):
    """An offset beyond the end."""


class Unimplemented(CutawayError):
    """Known, but not built."""


class DataLoss(CutawayError):
    """Bytes do not match their digest or size."""


class Unknown(CutawayError):
    """Everything else."""


def all_classes() -> tuple[type[CutawayError], ...]:
    """Every concrete class, for the tests that prove a seam's mapping complete."""
    return tuple(CutawayError.__subclasses__())
