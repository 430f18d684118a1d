"""Something of the host inside a container, as inspect prints it."""

from cutaway.engine.documents import DockerDocument
from cutaway.oci.document import field


class MountPoint(DockerDocument):
    """A bind mount or a volume. `name` and `driver` belong to volumes only."""

    type: str
    name: str | None = None
    source: str = ""
    destination: str
    driver: str | None = None
    mode: str = ""
    rw: bool = field(name="RW", default=True)
    propagation: str = ""
