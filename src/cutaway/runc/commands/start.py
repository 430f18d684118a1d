"""`start`: let a created container's program run."""

import os

from cutaway.errors import Aborted, FailedPrecondition
from cutaway.linux import patience, processes
from cutaway.runc import hooks, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.notify import Proxy
    from cutaway.runc.options import Parsed

_POLL_MS = 100


def run(context: "Context", parsed: "Parsed") -> int:
    """Start; 0."""
    container = state.load(context.root, parsed.arguments[0])
    with state.Lock(container.directory):
        proxy = notify_proxy(container)
        let_go(container)
        try:
            run_poststart(container)
        except Exception:
            _destroy(context, container)
            raise
    if proxy is not None:
        proxy.forward(container.record.pid, container.record.pid)
    return 0


def notify_proxy(container: state.Container) -> "Proxy | None":
    """The socket that tells systemd when the program is ready, if systemd waits for that."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return None
    patience.needed()
    from cutaway.runc import notify

    return notify.listen(container)


def start(container: state.Container) -> None:
    """Let init go on, and run the poststart hooks. Raises `FailedPrecondition` in any other status."""
    let_go(container)
    run_poststart(container)


def let_go(container: state.Container) -> None:
    """Let init go on. Raises `FailedPrecondition` in any other status than created."""
    status = container.status()
    if status == state.STOPPED:
        if was_let_go(container):
            return
        raise FailedPrecondition("cannot start a container that has stopped")
    if status == state.RUNNING:
        raise FailedPrecondition("cannot start an already running container")
    if status != state.CREATED:
        raise FailedPrecondition(f"cannot start a container in the {status} state")
    if container.record.hooks.poststart:
        patience.needed()
    open_fifo(container)


def run_poststart(container: state.Container) -> None:
    """Run the poststart hooks; the container is killed if one fails. Raises what `hooks.run` does."""
    if not container.record.hooks.poststart:
        return
    try:
        hooks.run("poststart", container.record.hooks.poststart, container.oci_state(state.RUNNING))
    except Exception:
        kill(container)
        raise


def _destroy(context: "Context", container: state.Container) -> None:
    """A failed poststart hook is the container's end, poststop hooks and all (runtime.md, lifecycle)."""
    from cutaway.runc.commands import delete

    delete.delete(context, container, force=True)


def kill(container: state.Container) -> None:
    """Kill a container's init, if it is still the same process."""
    if container.alive():
        try:
            os.kill(container.record.pid, 9)
        except ProcessLookupError:
            return


def open_fifo(container: state.Container) -> None:
    """Open the fifo's reading end, which lets init's open return, and take its byte.

    Opened without blocking, and polled together with the process: an init that has died would keep us
    waiting for ever. Raises `Aborted` then.
    """
    import select

    # Before the fifo: once that is open, init may be through its program and gone at any moment.
    try:
        pidfd = processes.pidfd_open(container.record.pid)
    except ProcessLookupError:
        if was_let_go(container):
            return
        raise Aborted("cannot start a container that has stopped") from None
    try:
        fifo = os.open(container.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fifo, select.POLLIN)
            poller.register(pidfd, select.POLLIN)
            while True:
                ready = {fd for fd, _ in poller.poll(_POLL_MS if patience.allowed() else patience.SHORT_MS)}
                if fifo in ready and os.read(fifo, 1):
                    break
                if pidfd in ready:
                    raise Aborted("cannot start a container that has stopped")
                if not patience.allowed():
                    # Init may have opened its end by now, and must not find ours closed when it writes.
                    raise patience.WouldWait(os.dup(fifo))
        finally:
            os.close(fifo)
    finally:
        os.close(pidfd)
    os.unlink(container.fifo)


def was_let_go(container: state.Container) -> bool:
    """Whether the init of a start that is made once more (`patience`) went on meanwhile, and has ended since.

    Its byte is in the fifo then, for whoever made the call first holds that open.
    """
    try:
        fifo = os.open(container.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        went = os.read(fifo, 1) != b""
    except BlockingIOError:
        went = False
    finally:
        os.close(fifo)
    if went:
        os.unlink(container.fifo)
    return went
