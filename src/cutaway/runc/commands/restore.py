"""`restore`: make a container run again that `checkpoint` has saved."""

from cutaway.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Restore; the program's exit code in the foreground, 0 detached."""
    from cutaway.runc.criu import restore

    if parsed.flag("detach"):
        restore.restore(context, parsed, None)
        return 0
    from cutaway.runc import foreground
    from cutaway.runc.commands import delete
    from cutaway.runc.terminal_relay import Relay

    if not parsed.flag("no-subreaper"):
        processes.set_subreaper()
    relay = Relay()
    try:
        making = restore.restore(context, parsed, relay)
        with foreground.Forwarding(relay) as forwarding:
            forwarding.to(making.pid)
            relay.begin()
            code = foreground.wait(making.pid, relay)
    finally:
        relay.end()
    delete.delete(context, making.container, force=True)
    return code
