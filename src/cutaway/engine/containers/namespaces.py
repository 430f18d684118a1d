"""Which namespaces a container gets: its own, the host's, or another container's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cutaway.engine.containers.model import Container
from cutaway.engine.spec.inputs import Namespaces
from cutaway.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from cutaway.engine.containers.index import ContainerIndex
    from cutaway.engine.network import Endpoint

CONTAINER: Final = "container:"
"""What a mode begins with that names another container."""


def namespaces(index: ContainerIndex, container: Container, endpoint: Endpoint) -> Namespaces:
    """Raises `FailedPrecondition` if a container to join does not run, `InvalidArgument` for a bad mode."""
    host = container.host
    return Namespaces(
        network=endpoint.namespace or "host",
        pid=_mode(index, host.pid_mode, "pid"),
        ipc=_mode(index, host.ipc_mode, "ipc"),
        uts=_mode(index, host.uts_mode, "uts"),
        cgroup=host.cgroupns_mode or None,
    )


def _mode(index: ContainerIndex, mode: str, kind: str) -> str:
    if mode in ("", "private", "shareable"):
        return "private"
    if mode in ("host", "none"):
        return mode
    if mode.startswith(CONTAINER):
        return _joined(index, mode, kind)
    raise InvalidArgument(f"invalid {kind.upper()} mode: {mode}")


def _joined(index: ContainerIndex, mode: str, kind: str) -> str:
    other = index.get(mode.removeprefix(CONTAINER))
    if not other.state.is_running:
        raise FailedPrecondition(f"cannot join {kind} of a non running container: {other.id}")
    return f"/proc/{other.state.pid}/ns/{kind}"


def joined_network(index: ContainerIndex, mode: str) -> str:
    """The path of the network namespace that `container:ID` means; empty for the host's.

    Raises `FailedPrecondition` if that container does not run.
    """
    path = _joined(index, mode, "net")
    other = index.get(mode.removeprefix(CONTAINER))
    return "" if other.host.network_mode == "host" else path
