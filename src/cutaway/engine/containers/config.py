"""Docker's container configuration as typed documents (moby's api/swagger.yaml: ContainerConfig, HostConfig).

Decoded from the create request, stored, and printed by inspect; all keys are here, also those that the
engine does not act on, since clients expect to see what they have sent. Memory is in bytes, CPU periods
and quotas in microseconds, NanoCpus in billionths of a CPU.
"""

from cutaway.engine.documents import DockerDocument
from cutaway.oci.document import field
from cutaway.oci.image_spec import Healthcheck


class Config(DockerDocument):
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, object]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool | None = None
    image: str = ""
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool | None = None
    mac_address: str | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(DockerDocument):
    type: str = ""
    config: dict[str, str] = {}


class RestartPolicy(DockerDocument):
    name: str = "no"
    maximum_retry_count: int = 0


class PortBinding(DockerDocument):
    host_ip: str = ""
    host_port: str = ""


class DeviceMapping(DockerDocument):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class WeightDevice(DockerDocument):
    path: str = ""
    weight: int = 0


class ThrottleDevice(DockerDocument):
    path: str = ""
    rate: int = 0


class Ulimit(DockerDocument):
    name: str = ""
    soft: int = 0
    hard: int = 0


class BindOptions(DockerDocument):
    propagation: str | None = None
    non_recursive: bool | None = None
    create_mountpoint: bool | None = None
    read_only_non_recursive: bool | None = None
    read_only_force_recursive: bool | None = None


class VolumeDriver(DockerDocument):
    name: str | None = None
    options: dict[str, str] | None = None


class VolumeOptions(DockerDocument):
    no_copy: bool | None = None
    labels: dict[str, str] | None = None
    subpath: str | None = None
    driver_config: VolumeDriver | None = None


class TmpfsOptions(DockerDocument):
    size_bytes: int | None = None
    mode: int | None = None
    options: list[list[str]] | None = None


class MountRequest(DockerDocument):
    """One `--mount`."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str | None = None
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(DockerDocument):
    binds: list[str] | None = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = LogConfig()
    network_mode: str = "default"
    port_bindings: dict[str, list[PortBinding]] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: list[int] = [0, 0]
    annotations: dict[str, str] | None = None
    cap_add: list[str] | str | None = None
    cap_drop: list[str] | str | None = None
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[dict[str, object]] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: int = field(name="IOMaximumBandwidth", default=0)
    mounts: list[MountRequest] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointSettings(DockerDocument):
    """What a request may say of one network; the rest of Docker's EndpointSettings is output."""

    aliases: list[str] | None = None
    mac_address: str | None = None
    ipam_config: dict[str, object] | None = field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    driver_opts: dict[str, str] | None = None


class NetworkingConfig(DockerDocument):
    endpoints_config: dict[str, EndpointSettings] | None = None


class CreateRequest(Config):
    """The body of POST /containers/create: a Config with two more keys."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()


def words(value: list[str] | str | None) -> list[str]:
    """A command as a list: Docker's API takes one string for a list of one."""
    return [value] if isinstance(value, str) else list(value or [])
