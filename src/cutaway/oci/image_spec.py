"""OCI image documents: descriptors, manifests, indexes and image configurations.

Source: opencontainers/image-spec 1.1 (descriptor.md, manifest.md, image-index.md, config.md) and
Docker's image manifest version 2, schema 2, whose documents have the same shape under other media types.
"""

from cutaway.oci.document import Document, field

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_MANIFEST_LIST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)


class Platform(Document):
    architecture: str
    os: str
    os_version: str | None = field(default=None, name="os.version")
    os_features: list[str] | None = field(default=None, name="os.features")
    variant: str | None = None


class Descriptor(Document):
    media_type: str
    digest: str
    size: int
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    data: str | None = None
    platform: Platform | None = None
    artifact_type: str | None = None


class Manifest(Document):
    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    config: Descriptor
    layers: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Index(Document):
    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: list[Descriptor]
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class Healthcheck(Document):
    """Docker's extension of the configuration; durations in nanoseconds."""

    test: list[str] | None = field(default=None, name="Test")
    interval: int | None = field(default=None, name="Interval")
    timeout: int | None = field(default=None, name="Timeout")
    start_period: int | None = field(default=None, name="StartPeriod")
    retries: int | None = field(default=None, name="Retries")


class ContainerConfig(Document):
    """The `config` object of an image configuration: defaults for containers of it."""

    user: str | None = field(default=None, name="User")
    exposed_ports: dict[str, dict[str, object]] | None = field(default=None, name="ExposedPorts")
    env: list[str] | None = field(default=None, name="Env")
    entrypoint: list[str] | None = field(default=None, name="Entrypoint")
    cmd: list[str] | None = field(default=None, name="Cmd")
    volumes: dict[str, dict[str, object]] | None = field(default=None, name="Volumes")
    working_dir: str | None = field(default=None, name="WorkingDir")
    labels: dict[str, str] | None = field(default=None, name="Labels")
    stop_signal: str | None = field(default=None, name="StopSignal")
    healthcheck: Healthcheck | None = field(default=None, name="Healthcheck")
    on_build: list[str] | None = field(default=None, name="OnBuild")
    shell: list[str] | None = field(default=None, name="Shell")


class RootFs(Document):
    type: str
    diff_ids: list[str] = field(name="diff_ids", default=[])


class History(Document):
    created: str | None = None
    created_by: str | None = field(default=None, name="created_by")
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = field(default=None, name="empty_layer")


class ImageConfig(Document):
    created: str | None = None
    author: str | None = None
    architecture: str
    os: str
    os_version: str | None = field(default=None, name="os.version")
    variant: str | None = None
    config: ContainerConfig | None = None
    rootfs: RootFs
    history: list[History] | None = None
