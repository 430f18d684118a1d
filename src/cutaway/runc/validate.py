"""What a configuration must hold to make sense: small checks, in the wording of runc where it has one.

Types are already right (`oci.document` reports the JSON path of a wrong one). Nothing here touches the
system beyond looking at the root directory and at namespace files.
"""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux import libc, namespaces
from cutaway.runc import number_ranges, sysctls, validate_mounts
from cutaway.runc.checks import mapping, one_of, texts, uint32, wrong
from cutaway.runc.plan import mount_options, scheduling, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutaway.oci.runtime_spec import Linux, Process, Scheduler, Spec

# getrlimit(2); the names are the specification's, the numbers the same on x86-64 and arm64.
_RLIMIT_NAMES = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
    "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip
RLIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_RLIMIT_NAMES)}


def process(found: "Process | None") -> "Process":
    """Check a process, of a container or of `exec`. Raises `InvalidArgument`."""
    if found is None:
        raise wrong("process property must not be empty", "process", "an object")
    if not found.cwd:
        raise wrong("Cwd property must not be empty", "process.cwd", "an absolute path")
    if not found.cwd.startswith("/"):
        raise wrong("Cwd must be an absolute path", "process.cwd", f"an absolute path, got {found.cwd!r}")
    if not found.args:
        raise wrong("args must not be empty", "process.args", "at least the program")
    if found.selinux_label and not os.path.exists("/sys/fs/selinux/enforce"):
        raise wrong(
            "selinux label is specified in config, but selinux is disabled or not supported",
            "process.selinuxLabel", "none on this host",
        )  # fmt: skip
    texts("process.args", found.args)
    texts("process.env", found.env)
    texts("process.cwd", [found.cwd])
    for index, limit in enumerate(found.rlimits):
        if limit.type not in RLIMITS:
            path = f"process.rlimits[{index}].type"
            raise wrong(f"wrong rlimit value: {limit.type}", path, one_of(RLIMITS))
        if min(limit.soft, limit.hard) < 0:
            raise InvalidArgument(f"process.rlimits[{index}]: soft and hard must not be negative")
    _user(found)
    _scheduling(found)
    return found


def _user(found: "Process") -> None:
    user = found.user
    for name, value in (("uid", user.uid), ("gid", user.gid)):
        uint32(f"process.user.{name}", value)
    for index, gid in enumerate(user.additional_gids):
        uint32(f"process.user.additionalGids[{index}]", gid)
    if user.umask is not None and not 0 <= user.umask <= 0o777:
        raise InvalidArgument(f"process.user.umask: expected 0 to 0777, got {user.umask:#o}")
    size = found.console_size
    if size is not None and not (0 <= size.height < 1 << 16 and 0 <= size.width < 1 << 16):
        raise InvalidArgument("process.consoleSize: height and width must be below 65536")


def _scheduling(found: "Process") -> None:
    scheduler, io = found.scheduler, found.io_priority
    if scheduler is not None:
        _scheduler(scheduler)
    if io is not None:
        if not 0 <= io.priority <= 7:
            path = "process.ioPriority.priority"
            raise wrong(f"invalid ioPriority.Priority: {io.priority}", path, "0 to 7")
        if io.class_ not in scheduling.IO_CLASSES:
            path = "process.ioPriority.class"
            raise wrong(f'invalid ioPriority.Class: "{io.class_}"', path, one_of(scheduling.IO_CLASSES))
    affinity = found.exec_cpu_affinity
    if affinity is not None:
        for name, text in (("Initial", affinity.initial), ("Final", affinity.final)):
            try:
                scheduling.cpu_list(text or "0")
            except InvalidArgument as error:
                path = f"process.execCPUAffinity.{name.lower()}"
                raise wrong(f"bad CPUAffinity.{name}: {error}", path, "a list such as 0-3,7") from None


def _scheduler(found: "Scheduler") -> None:
    """The rules of sched_setattr(2), in runc's words."""
    policy, path = found.policy, "process.scheduler"
    if policy not in scheduling.POLICIES:
        words = f"invalid scheduler policy: {policy}" if policy else "scheduler policy is required"
        raise wrong(words, f"{path}.policy", one_of(scheduling.POLICIES))
    for index, flag in enumerate(found.flags):
        if flag not in scheduling.SCHEDULER_FLAGS:
            known = one_of(scheduling.SCHEDULER_FLAGS)
            raise wrong(f"invalid scheduler flag: {flag}", f"{path}.flags[{index}]", known)
    if not -20 <= (found.nice or 0) <= 19:
        words = f"invalid scheduler.nice: {found.nice} when scheduler.policy is {policy}"
        raise wrong(words, f"{path}.nice", "-20 to 19")
    if found.priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
        words = "scheduler.priority can only be specified for SchedFIFO or SchedRR policy"
        raise wrong(words, f"{path}.priority", f"none with {policy}")
    for name in ("runtime", "deadline", "period"):
        if policy != "SCHED_DEADLINE" and getattr(found, name):
            words = "scheduler runtime/deadline/period can only be specified for SchedDeadline policy"
            raise wrong(words, f"{path}.{name}", f"none with {policy}")
    uint32("process.scheduler.priority", found.priority or 0)
    for name, time in (("runtime", found.runtime), ("deadline", found.deadline), ("period", found.period)):
        if not 0 <= (time or 0) < 1 << 64:
            raise InvalidArgument(f"process.scheduler.{name}: expected an unsigned 64-bit number, got {time}")


def _version(text: str) -> None:
    """SemVer 2.0.0, as config.md wants it: three numbers, then what a `-` or a `+` begins."""
    core, _, more = text.replace("+", "-", 1).partition("-")
    numbers = core.split(".")
    plain = all(char.isascii() and (char.isalnum() or char in ".-+") for char in more)
    if len(numbers) != 3 or not plain or not all(part.isascii() and part.isdecimal() for part in numbers):
        raise InvalidArgument(f"ociVersion: expected a version such as 1.2.0, got {text!r}")


def spec(found: "Spec", bundle: str) -> str:
    """Check a whole configuration; the root's absolute path. Raises `InvalidArgument`."""
    _version(found.oci_version)
    process(found.process)
    if found.root is None:
        raise wrong("root must be specified", "root", "an object")
    validate_mounts.check(found)
    for check in _CHECKS:
        check(found)
    return _rootfs(os.path.normpath(os.path.join(bundle, found.root.path)))


def _rootfs(path: str) -> str:
    try:
        os.stat(path)
    except OSError as error:
        words = f"invalid rootfs: stat {path}: {libc.words(error.errno or 0)}"
        raise wrong(words, "root.path", "a directory") from None
    if os.path.realpath(path) != path:
        raise wrong("invalid rootfs: not an absolute path, or a symlink", "root.path", "a path without links")
    if path == "/":
        words = "invalid rootfs: the host's own root cannot be a container's"
        raise wrong(words, "root.path", "another directory")
    return path


def warnings(found: "Spec") -> "Iterator[str]":
    """What is odd but allowed, for the log."""
    for mount in found.mounts:
        if not mount.destination.startswith("/"):
            yield (
                f"mount destination {mount.destination} is not absolute. Support for non-absolute mount "
                "destinations will be removed in a future release."
            )
        options = mount_options.parse(mount.options)
        if options.bind and options.data:
            yield (
                f"mount {mount.destination}: bind mounts take no options of a file system: "
                f"{','.join(options.data)} has no effect"
            )

    memory = found.linux.resources.memory if found.linux and found.linux.resources else None
    if memory and (memory.kernel is not None or memory.kernel_tcp is not None):
        yield "Kernel memory settings are ignored and will be removed"


def _linux(found: "Spec") -> "Linux":
    if found.linux is None:
        raise InvalidArgument("linux: required on this platform, but missing")
    return found.linux


def _kinds(found: "Spec") -> dict[str, str]:
    return {namespace.type: namespace.path or "" for namespace in _linux(found).namespaces}


def _namespaces(found: "Spec") -> None:
    seen = set()
    for index, namespace in enumerate(_linux(found).namespaces):
        text = f'{{"{namespace.type}" "{namespace.path or ""}"}}'
        if namespace.type not in namespaces.KINDS:
            path = f"linux.namespaces[{index}].type"
            raise wrong(f"namespace {text} does not exist", path, one_of(namespaces.KINDS))
        if namespace.type in seen:
            path = f"linux.namespaces[{index}].type"
            raise wrong(f"malformed spec file: duplicated ns {text}", path, "each type at most once")
        if namespace.path and not namespace.path.startswith("/"):
            raise InvalidArgument(
                f"linux.namespaces[{index}].path: expected an absolute path, got {namespace.path!r}"
            )
        texts(f"linux.namespaces[{index}].path", [namespace.path or ""])
        seen.add(namespace.type)
    if "mount" not in seen:
        _without_mount_namespace(found)


def _without_mount_namespace(found: "Spec") -> None:
    """Masks are refused: they would go over the files of everybody's."""
    linux = _linux(found)
    if linux.masked_paths or linux.readonly_paths:
        path = "linux.maskedPaths" if linux.masked_paths else "linux.readonlyPaths"
        words = "unable to restrict sys entries without a private MNT namespace"
        raise wrong(words, path, "none without a mount namespace")


def _user_namespace(found: "Spec") -> None:
    linux, kinds = _linux(found), _kinds(found)
    mapped = linux.uid_mappings or linux.gid_mappings
    if "user" not in kinds:
        if mapped:
            raise wrong(
                "user namespace mappings specified, but user namespace isn't enabled in the config",
                "linux.uidMappings" if linux.uid_mappings else "linux.gidMappings", "none",
            )  # fmt: skip
        return
    if kinds["user"]:
        return
    for name, mappings in (("uid", linux.uid_mappings), ("gid", linux.gid_mappings)):
        if not mappings:
            words = f"User namespaces enabled, but no {name} mappings found."
            raise wrong(words, f"linux.{name}Mappings", "at least one")
        for index, each in enumerate(mappings):
            mapping(f"linux.{name}Mappings[{index}]", each)
        if not any(each.container_id == 0 and each.size for each in mappings):
            what = "user" if name == "uid" else "group"
            words = f"User namespaces enabled, but no {what} mapping found."
            raise wrong(words, f"linux.{name}Mappings", "one of containerID 0")


def _names(found: "Spec") -> None:
    kinds = _kinds(found)
    for name, value in (("hostname", found.hostname), ("domainname", found.domainname)):
        if value and "uts" not in kinds:
            words = f"unable to set {name} without a private UTS namespace"
            raise wrong(words, name, "none without a uts namespace")
        texts(name, [value or ""])


def _time(found: "Spec") -> None:
    kinds = _kinds(found)
    offsets = _linux(found).time_offsets
    if offsets and "time" not in kinds:
        words = "time namespace offsets specified, but time namespace isn't enabled in the config"
        raise wrong(words, "linux.timeOffsets", "none")
    if offsets and kinds["time"]:
        words = "time namespace enabled, but both namespace path and time offsets specified "
        raise wrong(f"{words}-- you may only provide one", "linux.timeOffsets", "none")
    for clock in offsets or ():
        if clock not in ("monotonic", "boottime"):
            raise InvalidArgument(f"linux.timeOffsets.{clock}: only monotonic and boottime can be shifted")


def _devices(found: "Spec") -> None:
    for index, device in enumerate(_linux(found).devices):
        if device.type not in tree.TYPES:
            path = f"linux.devices[{index}].type"
            raise wrong(f'invalid device type "{device.type}"', path, one_of(tree.TYPES))
        if not device.path.startswith("/"):
            raise InvalidArgument(
                f"linux.devices[{index}].path: expected an absolute path, got {device.path!r}"
            )
        texts(f"linux.devices[{index}].path", [device.path])
        for name in ("major", "minor", "uid", "gid"):
            uint32(f"linux.devices[{index}].{name}", getattr(device, name) or 0)
        if not 0 <= (device.file_mode or 0) < 1 << 16:  # some callers leave the type of the file in it
            raise InvalidArgument(
                f"linux.devices[{index}].fileMode: expected 0 to 0177777, got {device.file_mode:#o}"
            )


def _huge_pages(found: "Spec") -> None:
    resources = _linux(found).resources
    for index, huge in enumerate((resources.hugepage_limits or []) if resources else []):
        number, unit = huge.page_size[:-2], huge.page_size[-2:]
        if not (number.isascii() and number.isdecimal() and unit in ("KB", "MB", "GB")):
            raise InvalidArgument(
                f"linux.resources.hugepageLimits[{index}].pageSize: expected a size such as 2MB or 1GB, "
                f"got {huge.page_size!r}"
            )


def _views(found: "Spec") -> None:
    linux = _linux(found)
    texts("linux.maskedPaths", linux.masked_paths)
    texts("linux.readonlyPaths", linux.readonly_paths)
    wanted = linux.rootfs_propagation
    if wanted and wanted not in mount_options.PROPAGATION:
        known = one_of(mount_options.PROPAGATION)
        raise wrong(f"rootfsPropagation={wanted} is not supported", "linux.rootfsPropagation", known)
    if linux.personality is not None:
        if linux.personality.domain not in scheduling.PERSONALITIES:
            words = f"invalid personality domain {linux.personality.domain}"
            raise wrong(words, "linux.personality.domain", one_of(scheduling.PERSONALITIES))
        if linux.personality.flags:
            raise InvalidArgument("linux.personality.flags: the specification knows no flag yet")


def _net_devices(found: "Spec") -> None:
    devices = _linux(found).net_devices
    if not devices:
        return
    kinds = _kinds(found)
    if "network" not in kinds or sysctls.is_own_network(kinds["network"]):
        words = "unable to move network devices without a NET namespace"
        raise wrong(words, "linux.netDevices", "none")
    if os.geteuid() != 0:
        raise InvalidArgument("network devices are not supported for rootless containers")
    for old, device in devices.items():
        for name in (old, device.name or old):
            # as the kernel's dev_valid_name()
            if name in ("", ".", "..") or len(os.fsencode(name)) > 15 or set(name) & set("/: \t\n\0"):
                path = f"linux.netDevices.{old}.name" if device.name else f"linux.netDevices.{old}"
                raise wrong(
                    f'invalid network device name "{name}"', path, "at most 15 bytes, none of /: and space"
                )


def _intel_rdt(found: "Spec") -> None:
    wanted = _linux(found).intel_rdt
    if wanted is not None:
        from cutaway.linux import resctrl
        from cutaway.runc import intel_rdt

        intel_rdt.check(wanted, resctrl.find())


def _hooks(found: "Spec") -> None:
    if found.hooks is None:
        return
    for attribute, hooks in found.hooks.__dict__.items():
        name = found.hooks._fields[attribute][0]
        for index, hook in enumerate(hooks):
            if not hook.path:
                raise InvalidArgument(f"hooks.{name}[{index}].path: must not be empty")
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidArgument(f"hooks.{name}[{index}].timeout: must be greater than zero")
            texts(f"hooks.{name}[{index}]", [hook.path, *(hook.args or []), *(hook.env or [])])
            if hook.args and not hook.args[0]:
                raise InvalidArgument(f"hooks.{name}[{index}].args[0]: must not be empty")
            for at, entry in enumerate(hook.env or []):
                if entry.startswith("=") or not entry:
                    raise InvalidArgument(f"hooks.{name}[{index}].env[{at}]: a variable without a name")


_CHECKS = (
    number_ranges.check,
    _namespaces,
    _user_namespace,
    _names,
    _time,
    sysctls.check,
    _devices,
    _huge_pages,
    _views,
    _net_devices,
    _intel_rdt,
    _hooks,
)
