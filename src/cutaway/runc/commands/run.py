"""`run`: create and start, and in the foreground wait for the program."""

from cutaway.runc import creation
from cutaway.runc.commands import delete, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.notify import Proxy
    from cutaway.runc.options import Parsed
    from cutaway.runc.state import Container


def run(context: "Context", parsed: "Parsed") -> int:
    """Run; the program's exit code in the foreground, 0 detached."""
    if parsed.flag("detach"):
        making = creation.create(context, parsed, detach=True)
        proxy = _start(context, making.container)
        if proxy is not None:
            proxy.forward(making.pid, making.pid)
        return 0
    from cutaway.runc import foreground

    return foreground.run(context, parsed)


def _start(context: "Context", container: "Container") -> "Proxy | None":
    try:
        proxy = start.notify_proxy(container)
        start.start(container)
        return proxy
    except Exception:
        delete.delete(context, container, force=True)
        raise
