"""`pause`: suspend a container's processes."""

from cutaway.errors import FailedPrecondition
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Pause; 0."""
    if context.may_lack_cgroups():
        context.log.warning("runc pause may fail if you don't have the full access to cgroups")
    container = state.load(context.root, parsed.arguments[0])
    with state.Lock(container.directory):
        if container.status() not in (state.RUNNING, state.CREATED):
            raise FailedPrecondition("container not running")
        container.cgroup().freeze()
    return 0
