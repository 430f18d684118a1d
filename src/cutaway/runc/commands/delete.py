"""`delete`: remove what a container holds, once it has stopped."""

import os

from cutaway.errors import FailedPrecondition, NotFound
from cutaway.linux import patience, processes
from cutaway.runc import hooks, state
from cutaway.runc.commands import kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

_SIGKILL = 9
_PATIENCE_MS = 10_000


def run(context: "Context", parsed: "Parsed") -> int:
    """Delete; 0, also with --force for a container that does not exist."""
    container_id, force = parsed.arguments[0], parsed.flag("force")
    try:
        container = state.load(context.root, container_id)
    except NotFound:
        _remove_remains(context.root, container_id)
        if force:
            return 0
        raise
    delete(context, container, force=force)
    return 0


def _remove_remains(root: str, container_id: str) -> None:
    """A directory without a state: its create was killed at its very beginning."""
    lock = state.Lock(os.path.join(root, container_id))
    try:
        if lock.try_take():
            state.remove(root, container_id)
    except (NotFound, NotADirectoryError):
        return
    finally:
        lock.release()


def delete(context: "Context", container: state.Container, *, force: bool) -> None:
    """Remove a container. Raises `FailedPrecondition` when it is running, unless forced."""
    status, record = container.status(), container.record
    plain = record.own_pids and record.root_mounts is None and not record.hooks.poststop
    if status != state.STOPPED or not plain:
        patience.needed()
    if status == state.STOPPED:
        if not container.record.own_pids and container.record.cgroup_paths:
            container.cgroup().kill_all(_SIGKILL)
    elif status == state.CREATED or force:
        _end(container)
    else:
        raise FailedPrecondition(f"cannot delete container {container.id} that is not stopped: {status}")
    with state.Lock(container.directory):
        destroy(context, container)


def _end(container: state.Container) -> None:
    """Kill the container and wait until it is gone. Raises `FailedPrecondition` when it is not in time."""
    import select

    try:
        pidfd = processes.pidfd_open(container.record.pid)
    except (OSError, ValueError):
        return
    try:
        kill.send(container, _SIGKILL)
        shared = not container.record.own_pids and container.record.cgroup_paths
        if shared or container.status() == state.PAUSED:
            cgroup = container.cgroup()
            cgroup.kill_all(_SIGKILL)
            cgroup.thaw()  # a frozen process does not die (cgroup v1)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_PATIENCE_MS):
            raise FailedPrecondition(f"container {container.id} is still running after SIGKILL")
    except FailedPrecondition:
        if container.alive():
            raise
    finally:
        os.close(pidfd)


def destroy(context: "Context", container: state.Container) -> None:
    """Remove cgroup and state, then run the poststop hooks: a failure of one is a warning."""
    if container.record.cgroup_paths:
        cgroup = container.cgroup()
        if not container.record.own_pids:
            cgroup.kill_all(_SIGKILL)
        cgroup.delete()
    if container.record.resctrl_groups:
        from cutaway.linux import resctrl

        resctrl.remove(container.record.resctrl_groups)
    if container.record.root_mounts is not None:
        from cutaway.runc.process import host_mounts

        host_mounts.unmount(container.record)
    state.remove(container.root, container.id)
    if container.record.hooks.poststop:
        stopped = container.oci_state(state.STOPPED)
        for failure in hooks.run_all("poststop", container.record.hooks.poststop, stopped):
            context.log.warning(failure)
