"""`checkpoint`: save a running container's state with criu."""

from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Save, then delete the container unless it goes on; 0."""
    container = state.load(context.root, parsed.arguments[0])
    status = container.status()
    if status not in (state.RUNNING, state.PAUSED):
        raise FailedPrecondition(f"Container cannot be checkpointed in {status} state")
    from cutaway.runc.commands import delete
    from cutaway.runc.criu import dump

    with state.Lock(container.directory):
        dump.dump(context, container, parsed)
    if not (parsed.flag("leave-running") or parsed.flag("pre-dump")):
        try:
            delete.delete(context, container, force=True)
        except CutawayError as error:
            context.log.warning(str(error))  # the images are complete all the same
    return 0
