"""Everything that the OCI document of a container depends on, already resolved.

The engine looks things up (user names, paths of namespaces, device numbers, the image's defaults) and
fills these records; `build.build` then only writes them down. Sizes are bytes, times microseconds unless
a field says otherwise; None means "not set", as in Docker's HostConfig 0 often does.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Host:
    """What of the machine the document depends on."""

    cgroup_version: int = 2
    kernel: tuple[int, int] = (6, 1)  # major, minor
    architecture: str = "x86_64"  # as uname -m says
    # What the engine itself has in its bounding set; a container can never get more.
    capabilities: frozenset[str] = frozenset()
    devices: tuple["HostDevice", ...] = ()  # every node below /dev, for privileged containers
    seccomp: bool = True  # the kernel has filters


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device node: `type` is c or b; `mode` the permission bits."""

    path: str
    type: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class DeviceMapping:
    """--device: a node to make in the container, and what may be done with it."""

    device: HostDevice  # its path is that in the container
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class DeviceCgroupRule:
    """--device-cgroup-rule; None for `*`."""

    type: str
    major: int | None
    minor: int | None
    access: str


@dataclass(frozen=True, slots=True)
class BindMount:
    """-v SOURCE:DESTINATION; `source` is an absolute path on this machine."""

    source: str
    destination: str
    read_only: bool = False
    propagation: str = "rprivate"  # private, shared, slave, or these with r in front
    recursive: bool = True


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """--tmpfs DESTINATION:OPTIONS."""

    destination: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ulimit:
    """--ulimit NAME=SOFT:HARD; -1 is unlimited."""

    name: str  # "nofile"
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ThrottleDevice:
    """--device-read-bps and the like: bytes or operations a second."""

    major: int
    minor: int
    rate: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits; None leaves the kernel's default."""

    memory: int | None = None
    memory_swap: int | None = None  # memory and swap together; -1 unlimited; None: twice the memory
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    nano_cpus: int | None = None  # 1e9 is one CPU
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_realtime_runtime: int | None = None
    cpu_realtime_period: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None  # 0 and less: unlimited
    blkio_weight: int | None = None
    blkio_read_bps: tuple[ThrottleDevice, ...] = ()
    blkio_write_bps: tuple[ThrottleDevice, ...] = ()
    blkio_read_iops: tuple[ThrottleDevice, ...] = ()
    blkio_write_iops: tuple[ThrottleDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Each is "private", "host", or the path of a namespace to join ("/proc/PID/ns/ipc").

    `network` is "host" or a path; "private" gives an empty one made by the runtime.
    `ipc` may also be "none": private without /dev/shm. `cgroup` None: private on v2, host on v1.
    """

    network: str = "private"
    pid: str = "private"
    ipc: str = "private"
    uts: str = "private"
    cgroup: str | None = None
    user: str = "host"


@dataclass(frozen=True, slots=True)
class SpecInputs:
    """One container."""

    id: str
    args: tuple[str, ...]
    rootfs: str = "rootfs"  # absolute, or relative to the bundle
    hostname: str = ""
    domainname: str = ""
    env: tuple[str, ...] = ()  # complete: PATH, HOSTNAME, TERM, the image's and the user's
    cwd: str = "/"
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # rows, columns
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()  # the primary one need not be among them
    readonly_rootfs: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    # None: the default profile; "unconfined": none; else the JSON text of a profile in Docker's form
    seccomp: str | None = None
    masked_paths: tuple[str, ...] | None = None  # None: Docker's; () none
    readonly_paths: tuple[str, ...] | None = None
    mounts: tuple[BindMount | TmpfsMount, ...] = ()
    # Files of the engine that the container sees in /etc; None leaves the image's own.
    resolv_conf_path: str | None = None
    hostname_path: str | None = None
    hosts_path: str | None = None
    shm_size: int = 64 << 20
    shm_path: str | None = None  # a shareable /dev/shm of the engine's, or another container's
    init_path: str | None = None  # --init: the program on this machine
    devices: tuple[DeviceMapping, ...] = ()
    device_cgroup_rules: tuple[DeviceCgroupRule, ...] = ()
    limits: Limits = Limits()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    sysctls: dict[str, str] = field(default_factory=dict)
    namespaces: Namespaces = Namespaces()
    cgroup_parent: str = ""  # "": /docker
    annotations: dict[str, str] = field(default_factory=dict)
