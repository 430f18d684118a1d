"""POST /containers/{id}/update: limits of a running container, and its restart policy."""

from cutaway.engine import hostinfo
from cutaway.engine.containers import defaults
from cutaway.engine.containers.config import HostConfig, RestartPolicy
from cutaway.engine.containers.model import Container
from cutaway.engine.containers.parts import Parts
from cutaway.engine.containers.specs import limits
from cutaway.engine.documents import DockerDocument
from cutaway.engine.spec import resources
from cutaway.errors import FailedPrecondition


class UpdateRequest(DockerDocument):
    """What may be changed; 0 and "" leave a value as it is."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    memory_swap: int = 0
    pids_limit: int | None = None
    blkio_weight: int = 0
    restart_policy: RestartPolicy | None = None


async def apply(parts: Parts, container: Container, wanted: UpdateRequest) -> None:
    """Change a container. Raises `InvalidArgument`, or `FailedPrecondition` for one that is going away."""
    async with container.lock:
        changed = HostConfig(**container.host.__dict__)
        for name, value in wanted.__dict__.items():
            if name == "restart_policy":
                if value is not None and value.name:
                    changed.restart_policy = value
            elif value:
                setattr(changed, name, value)
        defaults.check_host_config(changed)
        if container.state.status in ("removing", "dead"):
            raise FailedPrecondition(f"Cannot update container {container.id}: it is marked for removal")
        if container.state.is_running:
            await parts.runtime.update(container.id, resources.update(limits(changed), hostinfo.host()))
        container.host = changed
        parts.index.save_config(container)
    parts.events.container(container, "update")
