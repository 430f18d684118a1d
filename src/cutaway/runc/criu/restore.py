"""`restore`: a container made of criu's images instead of a program.

The steps are those of `create` as far as the name and the cgroups; then criu makes the processes, in
namespaces and mounts of its own making, as children of the runtime (`rst_sibling`).
"""

import os

from cutaway.errors import FailedPrecondition
from cutaway.linux import mounts, paths, processes
from cutaway.oci.runtime_spec import Hooks
from cutaway.runc import cgroup_setup, config, console, creation, draft, hooks, state, validate
from cutaway.runc.criu import external, messages, options
from cutaway.runc.criu.swrk import Criu
from cutaway.runc.plan import mount_options
from cutaway.runc.plan.rootfs import clean
from cutaway.runc.plan.step import Here
from cutaway.runc.process import parent, starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import Mount
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.process.parent import Making
    from cutaway.runc.terminal_relay import Relay

LOG = "restore.log"
_FIRST_EXTRA = 4  # criu's descriptors: stdio, its socket, then ours
_LSM = 31600


def restore(context: "Context", parsed: "Parsed", relay: "Relay | None") -> "Making":
    """Make the container run again. Raises the classes of `cutaway.errors`; then nothing is left."""
    container_id = parsed.arguments[0]
    pid_file = os.path.abspath(parsed.text("pid-file")) if parsed.text("pid-file") else ""
    folders = options.folders(parsed)
    folders.images, folders.work = (
        os.path.abspath(each) if each else "" for each in (folders.images, folders.work)
    )
    bundle = config.enter_bundle(parsed.text("bundle"))
    spec, text = config.load()
    rootfs = validate.spec(spec, bundle)
    state.check_id(container_id)
    process = spec.process
    assert process is not None  # validated
    console_path = parsed.text("console-socket")
    draft.check_terminal(process, detach=relay is None, console_socket=console_path)
    request = options.common(parsed, spec.annotations)
    criu = Criu(context.criu)
    _security(request, parsed, criu.version())
    container = draft.container(context, container_id, spec, bundle, rootfs)
    making = parent.Making(container, spec, process)
    manager = cgroup_setup.choose(context, spec, container)
    cgroup_setup.check_unused(context, manager)
    console_socket = -1
    if console_path:
        console_socket = console.connect(console_path)
    elif relay is not None and process.terminal:
        console_socket = relay.open_socket(process)
    run = RunCriu(making, manager, criu, request, folders, console_socket)
    stage = parent.StageReady(making, pid_file)
    steps = [
        parent.ReserveName(making, text, (0, 0)),
        parent.MakeCgroup(making, manager, None),
        MakeMountPoints(making),
        run,
        stage,
        parent.SaveReady(making, stage),
    ]
    try:
        creation.make(context, list(steps), making)
    finally:
        if console_socket >= 0:
            os.close(console_socket)
    return making


def _security(request: messages.Options, parsed: "Parsed", version: int) -> None:
    for option, field in (("lsm-profile", "lsm_profile"), ("lsm-mount-context", "lsm_mount_context")):
        if parsed.text(option):
            if version < _LSM:
                raise FailedPrecondition(f"--{option} requires at least CRIU 3.16")
            request.set(**{field: parsed.text(option)})


class MakeMountPoints(parent.ParentStep):
    """Make the places that the container's mounts need, as the first create did. On a tmpfs criu does."""

    __slots__ = ()
    group = "rootfs"

    def describe(self) -> str:
        return f"make mount points in {self.making.container.record.rootfs}"

    def command(self) -> str:
        return f"mkdir -p {self.making.container.record.rootfs}/..."

    def execute(self, here: Here) -> None:
        entries = self.making.spec.mounts
        covered = [clean(mount.destination) + "/" for mount in entries if _covers(mount)]
        root = os.open(self.making.container.record.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for mount in entries:
                place = clean(mount.destination)
                if mount.type != "cgroup" and not place.startswith(tuple(covered)):
                    os.close(self._make(root, place, mount))
        finally:
            os.close(root)

    def _make(self, root: int, place: str, mount: "Mount") -> int:
        source = os.path.join(self.making.container.record.bundle, mount.source or "")
        if mount_options.parse(mount.options).bind and not os.path.isdir(source):
            return paths.make_file(root, place)
        return paths.make_directories(root, place)


def _covers(mount: "Mount") -> bool:
    return mount.type == "tmpfs" or mount_options.parse(mount.options).bind


class RunCriu(parent.ParentStep):
    """Let criu make the processes."""

    __slots__ = ("console_socket", "criu", "folders", "manager", "request")
    group = "criu"

    def __init__(
        self,
        making: "Making",
        manager: "Manager",
        criu: Criu,
        request: messages.Options,
        folders: options.Folders,
        console_socket: int,
    ) -> None:
        super().__init__(making)
        self.manager = manager
        self.criu = criu
        self.request = request
        self.folders = folders
        self.console_socket = console_socket

    def describe(self) -> str:
        return f"restore the processes in {self.folders.images}"

    def command(self) -> str:
        return f"criu restore --images-dir {self.folders.images} ..."

    def execute(self, here: Here) -> None:
        opened: list[int] = []
        # criu's root is a mount, and nothing may be mounted over its parent.
        root = os.path.join(os.path.realpath(self.making.container.directory), "criu-root")
        os.mkdir(root)
        try:
            mounts.mount(self.making.container.record.rootfs, root, None, mounts.MS_BIND | mounts.MS_REC)
            self.request.set(
                log_file=LOG,
                root=root,
                rst_sibling=True,
                evasive_devices=True,
                **self.folders.open(make=False),
            )
            self._describe(opened)
            answer = self.criu.converse(
                self._ask,
                self._notified,
                opened,
                stdio=not self.making.process.terminal,
                log_file=os.path.join(self.folders.work or self.folders.images, LOG),
            )
            self._adopt(answer.restored_pid)
        finally:
            for fd in opened:
                os.close(fd)
            self.folders.close()
            _unmount(root)
            os.rmdir(root)

    def _describe(self, opened: list[int]) -> None:
        """What comes from outside: mounts, namespaces (open, in `opened`), pipes."""
        spec, record = self.making.spec, self.making.container.record
        outside = list(external.mounts(spec, record, cgroup_setup.views(self.manager)))
        if spec.linux and spec.linux.masked_paths:
            outside.append((external.NULL, external.NULL))
        if outside:
            self.request.set(ext_mnt=outside)
        inherited: list[messages.Pair] = []
        for kind, path in external.joined(spec, by_descriptor=True):
            inherited.append((external.key(kind), _FIRST_EXTRA + len(opened)))
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        for fd, name in enumerate(self._descriptors()):
            if name.startswith("pipe:"):
                inherited.append((name, fd))
        if inherited:
            self.request.set(inherit_fd=inherited)
        if joins := list(external.joined(spec, by_descriptor=False)):
            if any(kind == "cgroup" for kind, _ in joins):
                raise FailedPrecondition("criu cannot join a cgroup namespace by its path")
            self.request.set(join_ns=joins)

    def _descriptors(self) -> list[str]:
        from cutaway.oci import jsontext

        path = os.path.join(self.folders.images, external.DESCRIPTORS)
        with open(path, "rb") as file:
            names = jsontext.loads(file.read())
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def _ask(self, pid: int) -> bytes:
        """The request, once criu is in the container's cgroups: what it makes is born there."""
        from cutaway.linux.cgroups import detect

        linux = self.making.spec.linux
        self.manager.add(pid)
        self.manager.apply(linux.resources if linux else None)
        roots = list(detect.own_cgroups(pid).items())
        self.request.set(cg_root=roots)
        return messages.request(messages.RESTORE, self.request)

    def _notified(self, answer: messages.Response, fd: int) -> None:
        if answer.script == "setup-namespaces":
            told = self.making.container.oci_state(state.CREATING)
            told.pid = answer.pid
            found = self.making.spec.hooks or Hooks()
            hooks.run("prestart", found.prestart, told)
            hooks.run("createRuntime", found.create_runtime, told)
        elif answer.script == "post-restore":
            self._adopt(answer.pid)
        elif answer.script == "orphan-pts-master" and fd >= 0 and self.console_socket >= 0:
            console.send_master(self.console_socket, fd)

    def _adopt(self, pid: int) -> None:
        """Write down who the container's first process is now; it has started long ago."""
        if not pid or pid == self.making.pid:
            return
        container = self.making.container
        found = processes.status(pid)
        if found is None:
            raise FailedPrecondition(f"restored process {pid} has ended")
        self.making.pid = container.record.pid = pid
        container.record.start_time = found[1]
        container.save()
        os.unlink(container.fifo)

    def undo(self) -> None:
        if self.making.pid:
            starting.kill(self.making.pid)


def _unmount(path: str) -> None:
    try:
        mounts.umount(path, mounts.MNT_DETACH)
    except OSError as error:
        if error.errno != 22:  # EINVAL: it was never mounted
            raise
