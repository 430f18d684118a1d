"""The commands: a module each, with a function `run(context, parsed)` that returns the exit code.

The table here is all that a command line needs to be understood; a command's module is imported when it runs.
"""

from cutaway.runc.options import DURATION, FLAG, MANY, NUMBER, NUMBERS, TEXT, Option

_NO_LIMIT = 1 << 30


class Command:
    """What a command takes."""

    __slots__ = ("arguments", "at_least", "at_most", "options", "stop_at_argument", "summary")

    def __init__(
        self,
        summary: str,
        arguments: str,
        counts: tuple[int, int],
        options: list[Option],
        stop_at_argument: bool = False,
    ) -> None:
        self.summary = summary
        self.arguments = arguments
        self.at_least, self.at_most = counts
        self.options = [*options, Option("help h", FLAG, "show help")]
        self.stop_at_argument = stop_at_argument


GLOBAL = [
    Option("debug", FLAG, "log for debugging"),
    Option("log", TEXT, "write the log to this file (default: stderr)"),
    Option("log-format", TEXT, "text (default) or json"),
    Option(
        "root",
        TEXT,
        "directory of the containers' state (default: /run/cutaway-runc, or in $XDG_RUNTIME_DIR)",
    ),
    Option("criu", TEXT, "the criu program (default: found in PATH)"),
    Option("systemd-cgroup", FLAG, "make cgroups through systemd"),
    Option("rootless", TEXT, "ignore cgroup permission errors: true, false or auto"),
    Option("help h", FLAG, "show help"),
    Option("version v", FLAG, "show the version"),
]

_CREATION = [
    Option("bundle b", TEXT, "the bundle's directory (default: the current one)"),
    Option("console-socket", TEXT, "Unix socket that gets the terminal's master"),
    Option("pid-file", TEXT, "file to write the process id to"),
    Option("no-pivot", FLAG, "move the root's mount instead of pivot_root, for roots on a ramdisk"),
    Option("no-new-keyring", FLAG, "keep the caller's session keyring"),
    Option("preserve-fds", NUMBER, "pass this many descriptors after stderr (and LISTEN_FDS)"),
]
_RUN = [
    Option("detach d", FLAG, "do not wait for the container"),
    Option("keep", FLAG, "do not delete the container after it exits"),
    Option("no-subreaper", FLAG, "do not reap orphans of the container"),
]
_EXEC = [
    Option("console-socket", TEXT, "Unix socket that gets the terminal's master"),
    Option("cwd", TEXT, "working directory in the container"),
    Option("env e", MANY, "set an environment variable"),
    Option("tty t", FLAG, "allocate a terminal"),
    Option("user u", TEXT, "uid[:gid]"),
    Option("additional-gids g", NUMBERS, "an additional group"),
    Option("process p", TEXT, "file with the process as JSON"),
    Option("detach d", FLAG, "do not wait for the process"),
    Option("pid-file", TEXT, "file to write the process id to"),
    Option("process-label", TEXT, "SELinux label of the process"),
    Option("apparmor", TEXT, "AppArmor profile of the process"),
    Option("no-new-privs", FLAG, "forbid new privileges"),
    Option("cap c", MANY, "add a capability"),
    Option("preserve-fds", NUMBER, "pass this many descriptors after stderr"),
    Option("cgroup", MANY, "[controller:]path of an existing cgroup below the container's"),
    Option("ignore-paused", FLAG, "exec even in a paused container"),
]
_UPDATE = [
    Option("resources r", TEXT, "file with the resources as JSON, - for stdin"),
    Option("blkio-weight", NUMBER, "weight of block I/O, 10 to 1000"),
    Option("cpu-period", TEXT, "CFS period in microseconds"),
    Option("cpu-quota", TEXT, "CFS quota in microseconds"),
    Option("cpu-share", TEXT, "CPU shares"),
    Option("cpu-rt-period", TEXT, "realtime period in microseconds"),
    Option("cpu-rt-runtime", TEXT, "realtime runtime in microseconds"),
    Option("cpuset-cpus", TEXT, "CPUs to use"),
    Option("cpuset-mems", TEXT, "memory nodes to use"),
    Option("memory", TEXT, "memory limit in bytes"),
    Option("memory-reservation", TEXT, "soft memory limit in bytes"),
    Option("memory-swap", TEXT, "limit of memory and swap in bytes, -1: none"),
    Option("pids-limit", NUMBER, "most processes"),
    Option("cpu-burst", TEXT, "CFS burst in microseconds"),
    Option("cpu-idle", TEXT, "1: run only when the CPU is idle, 0: not"),
    Option("kernel-memory", TEXT, "accepted, not used"),
    Option("kernel-memory-tcp", TEXT, "accepted, not used"),
    Option("l3-cache-schema", TEXT, "schema of Intel RDT/CAT"),
    Option("mem-bw-schema", TEXT, "schema of Intel RDT/MBA"),
]
_CRIU = [
    Option("image-path", TEXT, "directory of criu's images (default: checkpoint)"),
    Option("work-path", TEXT, "directory of criu's logs (default: that of the images)"),
    Option("tcp-established", FLAG, "allow open TCP connections"),
    Option("ext-unix-sk", FLAG, "allow Unix sockets connected to outside"),
    Option("shell-job", FLAG, "allow a terminal of outside"),
    Option("lazy-pages", FLAG, "move memory pages when they are touched (userfaultfd)"),
    Option("file-locks", FLAG, "allow file locks"),
    Option("manage-cgroups-mode", TEXT, "soft (default), full, strict or ignore"),
    Option("empty-ns", MANY, "a namespace whose contents are left out: network"),
    Option("auto-dedup", FLAG, "free what later images replace"),
]
_CHECKPOINT = [
    Option("parent-path", TEXT, "images of an earlier --pre-dump, from --image-path"),
    Option("leave-running", FLAG, "let the container go on"),
    Option("tcp-skip-in-flight", FLAG, "leave out TCP connections that are being made"),
    Option("link-remap", FLAG, "link files back that were unlinked"),
    Option("status-fd", NUMBER, "descriptor that gets a zero byte when pages can be asked for"),
    Option("page-server", TEXT, "ADDRESS:PORT that the pages go to"),
    Option("pre-dump", FLAG, "save the memory alone, and let the container go on"),
]
_RESTORE = [
    Option("bundle b", TEXT, "the bundle's directory (default: the current one)"),
    Option("console-socket", TEXT, "Unix socket that gets the terminal's master"),
    Option("pid-file", TEXT, "file to write the process id to"),
    Option("detach d", FLAG, "do not wait for the container"),
    Option("no-subreaper", FLAG, "do not reap orphans of the container"),
    Option("no-pivot", FLAG, "accepted: criu changes the root"),
    Option("lsm-profile", TEXT, "TYPE:NAME of the security profile"),
    Option("lsm-mount-context", TEXT, "the security label of mounts"),
]
_FORMAT = Option("format f", TEXT, "table (default) or json")
_ID = "<container-id>"

COMMANDS = {
    "checkpoint": Command("save a running container with criu", _ID, (1, 1), [*_CRIU, *_CHECKPOINT]),
    "create": Command("create a container", _ID, (1, 1), _CREATION),
    "delete": Command(
        "delete what a container holds", _ID, (1, 1), [Option("force f", FLAG, "kill the container first")]
    ),
    "events": Command(
        "show statistics of a container",
        _ID,
        (1, 1),
        [
            Option("interval", DURATION, "time between (default: 5s)"),
            Option("stats", FLAG, "show one and exit"),
        ],
    ),
    "exec": Command("execute a command in a container", f"{_ID} command [args]", (1, _NO_LIMIT), _EXEC, True),
    "features": Command("show what this runtime can do, as JSON", "", (0, 0), []),
    "kill": Command(
        "send a signal to a container's init (default: SIGTERM)",
        f"{_ID} [signal]",
        (1, 2),
        [Option("all a", FLAG, "send it to every process in the container")],
    ),
    "list": Command(
        "list containers", "", (0, 0), [_FORMAT, Option("quiet q", FLAG, "show only the ids")]
    ),
    "pause": Command("suspend a container's processes", _ID, (1, 1), []),
    "ps": Command("show a container's processes", f"{_ID} [ps options]", (1, _NO_LIMIT), [_FORMAT], True),
    "restore": Command("run a container again that was saved", _ID, (1, 1), [*_CRIU, *_RESTORE]),
    "resume": Command("resume a container's processes", _ID, (1, 1), []),
    "run": Command("create and start a container", _ID, (1, 1), [*_CREATION, *_RUN]),
    "spec": Command(
        "write a default config.json",
        "",
        (0, 0),
        [Option("bundle b", TEXT, "the bundle's directory"), Option("rootless", FLAG, "for a user not root")],
    ),
    "start": Command("start a created container's program", _ID, (1, 1), []),
    "state": Command("show a container's state as JSON", _ID, (1, 1), []),
    "update": Command("change a container's limits", _ID, (1, 1), _UPDATE),
}  # fmt: skip
