"""The body of POST /volumes/create."""

from cutaway.engine.documents import DockerDocument


class VolumeRequest(DockerDocument):
    """A name ("" for one of random digits), labels, and the driver with its options."""

    name: str = ""
    driver: str = "local"
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
