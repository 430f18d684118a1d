"""`resume`: let a paused container's processes go on."""

from cutaway.errors import FailedPrecondition
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Resume; 0."""
    if context.may_lack_cgroups():
        context.log.warning("runc resume may fail if you don't have the full access to cgroups")
    container = state.load(context.root, parsed.arguments[0])
    with state.Lock(container.directory):
        if container.status() != state.PAUSED:
            raise FailedPrecondition("container not paused")
        container.cgroup().thaw()
    return 0
