"""What every container of Docker's has: mounts, paths hidden and protected, device rules, sysctls."""

from cutaway.oci.runtime_spec import DeviceRule, Mount

OCI_VERSION = "1.0.2"
CGROUP_PARENT = "/docker"
INIT_DESTINATION = "/sbin/docker-init"

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",  # GHSA-6fw5-f8r9-fgfm: a side channel between containers
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",  # GHSA-jq35-85cj-fj4p: power readings tell of other processes' data
    "/sys/firmware",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# A read-only rootfs leaves these writable: a program can hardly run without them.
WRITABLE_WITH_READONLY_ROOTFS = ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")

# Ports below 1024 and ping without privileges, in a network namespace of the container's own.
NETWORK_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}


def mounts() -> list[Mount]:
    """The file systems of the kernel, in the order they are mounted."""

    def mount(destination: str, kind: str, *options: str, source: str | None = None) -> Mount:
        return Mount(destination=destination, type=kind, source=source or kind, options=list(options))

    guarded = ("nosuid", "noexec", "nodev")
    return [
        mount("/proc", "proc", *guarded),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/sys", "sysfs", *guarded, "ro"),
        mount("/sys/fs/cgroup", "cgroup", "ro", *guarded),
        mount("/dev/mqueue", "mqueue", *guarded),
        mount("/dev/shm", "tmpfs", *guarded, "mode=1777", source="shm"),
    ]


def device_rules() -> list[DeviceRule]:
    """Closed, but for zero, null, urandom, random, tty and console; fuse is closed by name."""

    def rule(allow: bool, major: int, minor: int) -> DeviceRule:
        return DeviceRule(allow=allow, type="c", major=major, minor=minor, access="rwm")

    opened = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
    return [DeviceRule(allow=False, access="rwm"), *(rule(True, *n) for n in opened), rule(False, 10, 229)]
