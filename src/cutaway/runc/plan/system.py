"""The steps on what namespaces hold besides mounts: names, network, kernel settings, keys, terminal."""

import os

from cutaway.errors import FailedPrecondition, PermissionDenied
from cutaway.linux import libc, mounts, paths, processes, procfs
from cutaway.runc import sysctls
from cutaway.runc.plan.step import Here, Step
from cutaway.runc.plan.tree import open_present
from cutaway.runc.process import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Hook, State

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class JoinKeyring(Step):
    """Leave the caller's session keyring, so that its keys stay out of the container."""

    __slots__ = ("name",)
    group = "namespaces"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"join a new session keyring {self.name}"

    def command(self) -> str:
        return f"keyctl session {self.name}"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        processes.join_session_keyring(self.name)


class LoopbackUp(Step):
    """Switch on a new network namespace's own loopback."""

    __slots__ = ()
    modules = ("fcntl",)
    group = "namespaces"

    def describe(self) -> str:
        return "bring lo up"

    def command(self) -> str:
        return "ip link set lo up"

    def execute(self, here: Here) -> None:
        import _socket
        import fcntl

        with_flags = b"lo".ljust(16, b"\0")
        probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            found = fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, with_flags + bytes(24))
            flags = int.from_bytes(found[16:18], "little") | _IFF_UP
            fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, with_flags + flags.to_bytes(2, "little") + bytes(22))
        finally:
            probe.close()


class SetHostname(Step):
    __slots__ = ("name",)
    group = "namespaces"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"set hostname {self.name}"

    def command(self) -> str:
        return f"hostname {self.name}"

    def failure(self, reason: str) -> str:
        return f"sethostname: {reason}"

    def execute(self, here: Here) -> None:
        import _socket

        _socket.sethostname(self.name)


class SetDomainname(Step):
    __slots__ = ("name",)
    group = "namespaces"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"set domain name {self.name}"

    def command(self) -> str:
        return f"domainname {self.name}"

    def failure(self, reason: str) -> str:
        return f"setdomainname: {reason}"

    def execute(self, here: Here) -> None:
        libc.setdomainname(self.name)


class WriteSysctl(Step):
    """Set a kernel parameter of the container's own namespaces.

    Written through the host's /proc, before the container's is in reach: a container's procfs, or what
    passes for it, could send the write elsewhere (CVE-2025-52881). Which namespace is meant is decided
    by who writes, not by which procfs.
    """

    __slots__ = ("key", "value")
    group = "sysctl"

    def __init__(self, key: str, value: str) -> None:
        self.key = key
        self.value = value

    @property
    def path(self) -> str:
        return "/proc/sys/" + sysctls.path(self.key)

    def describe(self) -> str:
        return f"set sysctl {self.key} to {self.value}"

    def command(self) -> str:
        return f"sysctl -w {self.key}='{self.value}'"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        procfs.write(self.path, self.value.encode(), here.host_proc)


class SetLabel(Step):
    """Tell the security module what the container's process runs as, from its exec on.

    With `procfs`, the number of a descriptor, the trampoline will do that (process.sealed): here is only
    asked whether it can be done, and a procfs put there that shows nothing but the container's processes.
    """

    __slots__ = ("label", "module", "procfs")
    group = "privileges"

    def __init__(self, module: str, label: str, procfs: int = -1) -> None:
        self.module = module  # "apparmor" or "selinux"
        self.label = label
        self.procfs = procfs

    def describe(self) -> str:
        return f"apply {self.module} profile {self.label}"

    def command(self) -> str:
        return f"aa-exec -p {self.label}" if self.module == "apparmor" else f"runcon {self.label}"

    def failure(self, reason: str) -> str:
        if self.module == "apparmor":
            return f"unable to apply apparmor profile: apparmor failed to apply profile: {reason}"
        return f"can't set process label: {reason}"

    def execute(self, here: Here) -> None:
        if self.procfs < 0:
            self._write(here, "exec", sealed.label_text(self.module, self.label).encode())
            return
        if self.module == "apparmor":
            self._write(here, "current", f"permprofile {self.label}".encode())
        else:
            self._write(here, "exec", self.label.encode())
            self._write(here, "exec", b"\0")  # for the next exec, as if nothing had been said
        tree = mounts.filesystem("proc", "proc", 0, [], shown="nowhere")
        os.dup2(tree, self.procfs, inheritable=True)
        os.close(tree)

    def _write(self, here: Here, name: str, text: bytes) -> None:
        for path in sealed.label_files(self.module, name):
            try:
                fd = procfs.open_file(f"/proc/self/{path}", os.O_WRONLY, here.host_proc)
            except FileNotFoundError:
                continue
            os.close(fd)
            procfs.write(f"/proc/self/{path}", text, here.host_proc)
            return
        raise FailedPrecondition(f"this kernel has no {self.module}")


class MakeTerminal(Step):
    """Allocate a terminal of the container's own devpts, hand its master out, and make it /dev/console."""

    __slots__ = ("console", "height", "width")
    modules = ("cutaway.linux.terminals", "cutaway.runc.console")
    group = "terminal"

    def __init__(self, height: int, width: int, console: bool) -> None:
        self.height = height
        self.width = width
        self.console = console

    def describe(self) -> str:
        return f"allocate a terminal of {self.height} rows and {self.width} columns (0: unset)"

    def command(self) -> str:
        return "script /dev/null  # allocates one too"

    def execute(self, here: Here) -> None:
        from cutaway.linux import terminals
        from cutaway.runc import console

        ptmx = paths.open_in_root(here.root, "/dev/pts/ptmx", links=False)
        try:
            if paths.filesystem(ptmx) != paths.DEVPTS_MAGIC:
                raise PermissionDenied("/dev/pts/ptmx is not on a devpts file system")
            master, here.terminal = terminals.open_pair(ptmx, here.host_fds)
        finally:
            os.close(ptmx)
        try:
            if self.height or self.width:
                terminals.resize(master, self.height, self.width)
            if here.plain_lines:
                terminals.keep_line_ends(master)
            if self.console:
                self._mount_console(here)
            console.send_master(here.console_socket, master)
        finally:
            os.close(master)
        os.close(here.console_socket)
        here.console_socket = -1

    def _mount_console(self, here: Here) -> None:
        place = open_present(here, "/dev/console")
        if place < 0:
            place = paths.make_file(here.root, "/dev/console", 0o666)
        try:
            slave = mounts.open_tree(here.terminal)
            try:
                mounts.move_mount(slave, place, shown="/dev/console")
            finally:
                os.close(slave)
        finally:
            os.close(place)


class TakeTerminal(Step):
    """Make the terminal the process's controlling one and its stdin, stdout and stderr."""

    __slots__ = ()
    modules = ("cutaway.linux.terminals",)
    group = "terminal"

    def describe(self) -> str:
        return "make the terminal the controlling one"

    def command(self) -> str:
        return "setsid --ctty"

    def execute(self, here: Here) -> None:
        from cutaway.linux import terminals

        terminals.make_controlling(here.terminal)
        for fd in (0, 1, 2):
            os.dup2(here.terminal, fd)
        os.close(here.terminal)
        here.terminal = -1


START = "startContainer"  # the hooks whose programs are the container's


class TellParent(Step):
    """Say how far it is: the parent does now what only it can, limits and hooks outside the container."""

    __slots__ = ("word",)
    group = "parent"

    def __init__(self, word: str) -> None:
        self.word = word

    def describe(self) -> str:
        return f"tell the runtime ({self.word})"

    def command(self) -> str:
        return "# the runtime's side of the handshake"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.tell_parent(self.word)


class AwaitParent(Step):
    """Wait until the parent is through with that."""

    __slots__ = ()
    group = "parent"

    def describe(self) -> str:
        return "wait for the runtime"

    def command(self) -> str:
        return "# the runtime's side of the handshake"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.hear_parent()


class RunHooks(Step):
    """Run the hooks that run inside the container's namespaces: with the program's environment unless they
    have their own, and with the umask that the runtime was called with."""

    __slots__ = ("entries", "hooks", "name", "state", "status")
    modules = ("cutaway.runc.hooks",)
    group = "hooks"

    def __init__(
        self, name: str, hooks: "list[Hook]", state: "State", status: str, entries: list[str]
    ) -> None:
        self.name = name
        self.hooks = hooks
        self.state = state
        self.status = status
        self.entries = entries

    def describe(self) -> str:
        return f"run {len(self.hooks)} {self.name} hooks"

    def command(self) -> str:
        return "; ".join(hook.path for hook in self.hooks)

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        from cutaway.runc import hooks

        if self.name == "createContainer" and here.root >= 0:
            os.fchdir(here.root)  # as in runc: such hooks mount things there, by relative paths
        self.state.pid = os.getpid()
        self.state.status = self.status
        environment = here.environment or dict(entry.partition("=")[::2] for entry in self.entries)
        umask = os.umask(here.old_umask)
        try:
            execute = here.execute if self.name == START else None
            hooks.run(self.name, self.hooks, self.state, execute, environment)
        finally:
            os.umask(umask)
