"""`delete`: whatever is left of a container when its shim has gone, of itself or not.

containerd runs it after every container, so it finds nothing to do as a rule: when the shim has noted
that the runtime has forgotten the container, the runtime is not called. Else it kills and forgets the
container. It unmounts the root filesystem, removes the socket that nobody listens on any more, and
says in a DeleteResponse how the container must be thought to have ended: by SIGKILL, now.
"""

import os
import sys
import time

from cutaway.errors import InvalidArgument
from cutaway.faults import point
from cutaway.shim import address, mounts, options
from cutaway.shim.launch import Launcher
from cutaway.shim.loop import Loop
from cutaway.shim.reaper import Reaper
from cutaway.shim.runtime import Runtime, pid_file
from cutaway.trace import spans
from cutaway.trace.context import from_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.arguments import Arguments

_KILLED = 128 + 9


def delete(arguments: "Arguments", program: str) -> int:
    """Clean up; may be repeated. Raises `InvalidArgument` without an id."""
    container = arguments["id"]
    if not container or "/" in container:
        raise InvalidArgument(f"shim delete: {container!r} is no container id")
    # As containerd calls it, the current folder is the bundle, or another one's when this one's is gone.
    bundle = os.path.join(os.path.dirname(os.getcwd()), container)
    if not options.is_deleted(bundle):
        problem = _force_delete(program, arguments["namespace"], bundle, container)
        if problem:
            print(f"failed to remove the container: {problem}", file=sys.stderr)
    point("shim.cleanup.runtime-done")
    problem = mounts.unmount_all(f"{bundle}/rootfs")
    if problem:
        print(f"failed to unmount the root filesystem: {problem}", file=sys.stderr)
    point("shim.cleanup.unmounted")
    address.remove_dead(bundle)
    point("shim.cleanup.socket-removed")
    os.write(1, _response(_pid(pid_file(bundle))))
    return 0


def _force_delete(program: str, namespace: str, bundle: str, container: str) -> str:
    settings, binary = options.read(bundle)
    binary = binary or settings.binary_name or options.default_binary(program)
    parent = from_environment(os.environ)
    if parent is not None:
        spans.attach(parent)
    loop = Loop()
    runtime = Runtime(Launcher(Reaper(loop)), binary, settings, namespace, bundle)
    said: list[str] = []

    async def work() -> None:
        try:
            said.append(await runtime.force_delete(container))
        finally:
            loop.stop()

    loop.spawn(work())
    loop.run()
    return said[0] if said else "the runtime could not be called"


def _pid(path: str) -> int:
    """0 when there never was a container, or when the bundle is gone."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _response(pid: int) -> bytes:
    from cutaway.pb.shim_pb2 import DeleteResponse

    response = DeleteResponse(pid=pid, exit_status=_KILLED)
    response.exited_at.FromNanoseconds(time.time_ns())
    return response.SerializeToString()
