"""`create`: make a container whose program waits for `start`."""

from cutaway.runc import creation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Create; 0."""
    creation.create(context, parsed, detach=True)
    return 0
