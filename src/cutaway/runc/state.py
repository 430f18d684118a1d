"""A container's state on disk, and what it says about the container now.

    ROOT/ID/            0711; made by mkdir: whoever succeeds owns the name
        lock            locked while a command changes the container
        state.json      0600; written beside and renamed into place
        config.json     0600; the configuration as it was at create
        exec.fifo       until start: the container's init waits in open(2) on it
        tracer          if `exec` has let in what could look into the runtime's own processes (restart.py)

               create                start               exit
    (absent) ─────────▶ creating ──▶ created ──▶ running ⇄ paused ──▶ stopped ──delete──▶ (absent)

No status is stored that the kernel knows better: a process is recognized by pid and start time, so
a reused pid is never taken for the container; `created` is the presence of the fifo; `paused` is the
cgroup's. What is stored survives kill -9 at any point (rename); it need not survive a reboot, which ends
every container, so nothing is synced: the root is on tmpfs.
"""

import fcntl
import os

from cutaway.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from cutaway.linux import patience, processes, smallfile
from cutaway.oci import document
from cutaway.oci.document import Document
from cutaway.oci.runtime_spec import Hooks, Spec, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"

STATE_FILE = "state.json"
CONFIG_FILE = "config.json"
FIFO = "exec.fifo"
_LOCK = "lock"
_TRACER = "tracer"
_MAX_ID = 1024


class Record(Document):
    """state.json."""

    oci_version: str
    id: str
    bundle: str
    rootfs: str
    created: str
    pid: int = 0
    start_time: int = 0
    ready: bool = False
    cgroup_paths: dict[str, str] = {}
    cgroup_unit: str = ""  # systemd's, where it made the cgroup
    cgroup_user: bool = False  # the user's own systemd did
    resctrl_groups: list[str] = []  # directories that end with the container
    own_pids: bool = True  # a pid namespace of its own: killing init ends everything in it
    root_mounts: int | None = None  # without a mount namespace of its own: mounts on the root before
    annotations: dict[str, str] = {}
    hooks: Hooks = Hooks()


class Container:
    """One container below a root directory."""

    def __init__(self, root: str, record: Record) -> None:
        self.root = root
        self.record = record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def directory(self) -> str:
        return os.path.join(self.root, self.record.id)

    @property
    def fifo(self) -> str:
        return os.path.join(self.directory, FIFO)

    def save(self) -> None:
        """Write state.json in one step."""
        self.stage()
        self.publish()

    def stage(self) -> None:
        """The first half of `save`: what takes its time."""
        smallfile.write(f"{self._file}.new", document.dumps(self.record).encode(), 0o600)

    def publish(self) -> None:
        """The second half."""
        os.rename(f"{self._file}.new", self._file)

    @property
    def _file(self) -> str:
        return os.path.join(self.directory, STATE_FILE)

    def save_config(self, text: str) -> None:
        """Keep the configuration that the container was created with."""
        _write(os.path.join(self.directory, CONFIG_FILE), text)

    def load_spec(self) -> Spec:
        """The configuration that the container was created with."""
        path = os.path.join(self.directory, CONFIG_FILE)
        return document.loads(Spec, smallfile.read(path), CONFIG_FILE)

    def cgroup(self) -> "Manager":
        from cutaway.linux import cgroups

        record = self.record
        return cgroups.from_paths(record.cgroup_paths, record.cgroup_unit, user=record.cgroup_user)

    def note_tracer(self) -> None:
        """Remember that a process with CAP_SYS_PTRACE may be in the container, beyond its configuration."""
        smallfile.write(os.path.join(self.directory, _TRACER), b"", 0o600)

    def has_tracer(self) -> bool:
        return os.path.exists(os.path.join(self.directory, _TRACER))

    def alive(self) -> bool:
        """Whether the container's init runs (a zombie does not)."""
        return processes.alive(self.record.pid, self.record.start_time)

    def status(self) -> str:
        """The container's status now."""
        if not self.alive():
            return CREATING if self.record.pid == 0 and not self.record.ready and self._busy() else STOPPED
        if not self.record.ready:
            return CREATING
        if self.record.cgroup_paths and self.cgroup().frozen():
            return PAUSED
        return CREATED if os.path.exists(self.fifo) else RUNNING

    def _busy(self) -> bool:
        """Whether a command holds the container's lock: with no process yet, that is its create."""
        lock = Lock(self.directory)
        if not lock.try_take():
            return True
        lock.release()
        return False

    def oci_state(self, status: str) -> State:
        """The state that hooks and `state` get (runtime.md, "State")."""
        record = self.record
        return State(
            oci_version=record.oci_version,
            id=record.id,
            status=status,
            pid=None if status == STOPPED else record.pid,
            bundle=record.bundle,
            annotations=record.annotations or None,
        )


class Lock:
    """The right to change a container. The kernel takes it back when its holder dies.

    A record lock (fcntl(2)), not an flock: a fork does not inherit it, so the container's init, which is
    a fork of its creator, does not hold it for ever.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, _LOCK)
        self._fd = -1

    def take(self) -> None:
        """Wait for the lock. Raises `NotFound` when the container is gone."""
        if not self.try_take():
            patience.needed()
            self._open()
            fcntl.lockf(self._fd, fcntl.LOCK_EX)

    def try_take(self) -> bool:
        """Take the lock if it is free."""
        self._open()
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as fcntl(2) leaves it
            self.release()
            return False
        return True

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NotFound("container does not exist") from None

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Lock":
        if self._fd < 0:
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def check_id(container_id: str) -> None:
    """Refuse ids that are no plain names. Raises `InvalidArgument`, in runc's words."""
    if not container_id:
        raise InvalidArgument("container id cannot be empty")
    plain = all(char.isascii() and (char.isalnum() or char in "_+-.,") for char in container_id)
    if not plain or container_id in (".", "..") or len(container_id) > _MAX_ID:
        raise InvalidArgument("invalid container ID format")


def _make_root(root: str) -> None:
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FailedPrecondition(f"mkdir {error.filename}: not a directory") from None


def reserve(root: str, container_id: str) -> str:
    """Make the container's directory, which takes its name. Raises `AlreadyExists`."""
    check_id(container_id)
    directory = os.path.join(root, container_id)
    try:
        _make_root(root)
        os.mkdir(directory, 0o711)
    except PermissionError as error:
        raise PermissionDenied(
            f"mkdir {error.filename}: permission denied (without root, set XDG_RUNTIME_DIR or give --root)"
        ) from None
    except FileExistsError:
        raise AlreadyExists("container with given ID already exists") from None
    os.chmod(directory, 0o711)  # whatever the umask: init reaches the fifo as the container's user
    return directory


def load(root: str, container_id: str) -> Container:
    """A container by its id. Raises `NotFound`, and `DataLoss` for a state file that is damaged."""
    text = read(root, container_id)
    return Container(root, document.loads(Record, text, os.path.join(root, container_id, STATE_FILE)))


def read(root: str, container_id: str) -> bytes:
    """A container's state file. Raises `NotFound`."""
    check_id(container_id)
    try:
        return smallfile.read(os.path.join(root, container_id, STATE_FILE))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("container does not exist") from None


def ids(root: str) -> list[str]:
    """The ids below a root, sorted; those without a state yet included."""
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise FailedPrecondition(f"mkdir {root}: not a directory") from None


def remove(root: str, container_id: str) -> None:
    """Remove what the container has on disk. Missing files are no error."""
    directory = os.path.join(root, container_id)
    _remove_notify(os.path.join(directory, "notify"))
    for name in (
        STATE_FILE,
        CONFIG_FILE,
        FIFO,
        _TRACER,
        *(f"{n}.new" for n in (STATE_FILE, CONFIG_FILE)),
        _LOCK,
    ):
        _unlink(os.path.join(directory, name))
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return


def _remove_notify(directory: str) -> None:
    """The directory of `notify`, if the container has one."""
    try:
        _unlink(os.path.join(directory, "notify.sock"))
        os.rmdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write(path: str, text: str) -> None:
    beside = f"{path}.new"
    smallfile.write(beside, text.encode(), 0o600)
    os.rename(beside, path)
