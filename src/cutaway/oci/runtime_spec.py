"""The OCI runtime configuration (`config.json`), Linux part.

Source: opencontainers/runtime-spec 1.2, config.md and config-linux.md. One definition for the engine,
which writes it, and for the runtime, which reads it; importing costs no third-party module.
Numbers keep the spec's units: bytes, microseconds, octal file modes as integers.
"""

from cutaway.oci.document import Document, field


class User(Document):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []
    username: str | None = None


class Box(Document):
    height: int = 0
    width: int = 0


class Capabilities(Document):
    bounding: list[str] | None = None
    effective: list[str] | None = None
    inheritable: list[str] | None = None
    permitted: list[str] | None = None
    ambient: list[str] | None = None


class Rlimit(Document):
    type: str
    hard: int
    soft: int


class Scheduler(Document):
    policy: str
    nice: int | None = None
    priority: int | None = None
    flags: list[str] = []
    runtime: int | None = None
    deadline: int | None = None
    period: int | None = None


class IoPriority(Document):
    class_: str = field(name="class")
    priority: int = 0


class CpuAffinity(Document):
    initial: str | None = None
    final: str | None = None


class Process(Document):
    terminal: bool | None = None
    console_size: Box | None = None
    user: User = User()
    args: list[str] | None = None
    command_line: str | None = None
    env: list[str] = []
    cwd: str
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool | None = None
    apparmor_profile: str | None = None
    oom_score_adj: int | None = None
    selinux_label: str | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = field(default=None, name="ioPriority")
    exec_cpu_affinity: CpuAffinity | None = field(default=None, name="execCPUAffinity")


class Root(Document):
    path: str
    readonly: bool | None = None


class IdMapping(Document):
    container_id: int = field(name="containerID", default=0)
    host_id: int = field(name="hostID", default=0)
    size: int = 0


class Mount(Document):
    destination: str
    type: str | None = None
    source: str | None = None
    options: list[str] = []
    uid_mappings: list[IdMapping] | None = None
    gid_mappings: list[IdMapping] | None = None


class Hook(Document):
    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class Hooks(Document):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Namespace(Document):
    type: str
    path: str | None = None


class Device(Document):
    path: str
    type: str
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Document):
    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str | None = None


class Memory(Document):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Document):
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class Pids(Document):
    limit: int | None = None


class WeightDevice(Document):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Document):
    major: int
    minor: int
    rate: int


class BlockIo(Document):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] | None = None
    throttle_read_bps_device: list[ThrottleDevice] | None = None
    throttle_write_bps_device: list[ThrottleDevice] | None = None
    throttle_read_iops_device: list[ThrottleDevice] | None = field(
        default=None, name="throttleReadIOPSDevice"
    )
    throttle_write_iops_device: list[ThrottleDevice] | None = field(
        default=None, name="throttleWriteIOPSDevice"
    )


class HugepageLimit(Document):
    page_size: str
    limit: int


class NetworkPriority(Document):
    name: str
    priority: int


class NetworkControl(Document):
    class_id: int | None = field(default=None, name="classID")
    priorities: list[NetworkPriority] | None = None


class RdmaLimit(Document):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Document):
    devices: list[DeviceRule] | None = None
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] | None = None
    network: NetworkControl | None = None
    rdma: dict[str, RdmaLimit] | None = None
    unified: dict[str, str] | None = None


class SyscallArg(Document):
    index: int
    value: int
    value_two: int | None = None
    op: str


class Syscall(Document):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SyscallArg] | None = None


class Seccomp(Document):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    flags: list[str] | None = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: list[Syscall] | None = None


class TimeOffset(Document):
    secs: int = 0
    nanosecs: int = 0


class IntelRdt(Document):
    clos_id: str | None = field(default=None, name="closID")
    schemata: list[str] = []
    l3_cache_schema: str | None = None
    mem_bw_schema: str | None = None
    enable_monitoring: bool | None = None


class Personality(Document):
    domain: str
    flags: list[str] | None = None


class NetDevice(Document):
    name: str | None = None


class Linux(Document):
    uid_mappings: list[IdMapping] = []
    gid_mappings: list[IdMapping] = []
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str | None = None
    namespaces: list[Namespace] = []
    devices: list[Device] = []
    net_devices: dict[str, NetDevice] | None = None
    seccomp: Seccomp | None = None
    rootfs_propagation: str | None = None
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str | None = None
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] | None = None


class Spec(Document):
    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: list[Mount] = []
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None


class State(Document):
    """What the runtime answers to `state` and gives hooks on stdin (runtime.md, "State")."""

    oci_version: str
    id: str
    status: str
    pid: int | None = None
    bundle: str
    annotations: dict[str, str] | None = None


class ContainerProcessState(Document):
    """What a seccomp agent gets together with the listener (runtime.md, "The Container Process State")."""

    oci_version: str
    fds: list[str] = []
    pid: int
    metadata: str | None = None
    state: State
