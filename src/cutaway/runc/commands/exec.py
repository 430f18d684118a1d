"""`exec`: run a further process in a container."""

from cutaway.runc import execution

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Execute; the process's exit code in the foreground, 0 detached."""
    found = execution.look(context, parsed)
    if parsed.flag("detach"):
        execution.execute(context, parsed, found, None)
        return 0
    from cutaway.runc import foreground
    from cutaway.runc.terminal_relay import Relay

    relay = Relay()
    try:
        with foreground.Forwarding(relay) as forwarding:
            execution.execute(context, parsed, found, relay)
            forwarding.to(found.making.pid)
            relay.begin()
            return foreground.wait(found.making.pid, relay)
    finally:
        relay.end()
