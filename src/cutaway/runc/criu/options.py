"""What the command lines of `checkpoint` and `restore` say, as fields of criu's request."""

import os

from cutaway.errors import InvalidArgument
from cutaway.linux import libc
from cutaway.runc.criu import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.options import Parsed

_CLONE_NEWNET = 0x40000000
_NAMESPACES = {"network": _CLONE_NEWNET}
_SAME = {
    "leave-running": "leave_running",
    "tcp-established": "tcp_established",
    "tcp-skip-in-flight": "tcp_skip_in_flight",
    "link-remap": "link_remap",
    "ext-unix-sk": "ext_unix_sk",
    "shell-job": "shell_job",
    "file-locks": "file_locks",
    "auto-dedup": "auto_dedup",
    "lazy-pages": "lazy_pages",
}
CONFIG_ANNOTATION = "org.criu.config"
_CONFIG_FILE = "/etc/criu/runc.conf"


class Folders:
    """The directories of the images and of the logs, open: criu takes them by number."""

    def __init__(self, images: str, work: str) -> None:
        self.images = images
        self.work = work
        self._fds: list[int] = []

    def open(self, *, make: bool) -> dict[str, int]:
        """The fields that name them. Raises OSError."""
        found = {}
        for field, path, made in (
            ("images_dir_fd", self.images, make),
            ("work_dir_fd", self.work, True),
        ):
            if not path:
                continue
            if made:
                os.makedirs(path, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds.append(fd)
            found[field] = fd
        return found

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


def folders(parsed: "Parsed") -> Folders:
    """The image directory, `checkpoint` in the current one unless said, and that of the logs."""
    images = parsed.text("image-path") or os.path.join(os.getcwd(), "checkpoint")
    return Folders(images, parsed.text("work-path"))


def parent(parsed: "Parsed", images: str) -> str:
    """--parent-path: images of an earlier pre-dump, from the image directory. Raises `InvalidArgument`."""
    path = parsed.text("parent-path")
    if not path:
        return ""
    if path.startswith("/"):
        raise InvalidArgument("--parent-path must be relative")
    full = os.path.normpath(os.path.join(images, path))
    try:
        os.close(os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise InvalidArgument(f"invalid --parent-path: stat {full}: {libc.words(error.errno or 0)}") from None
    return path


def common(parsed: "Parsed", annotations: dict[str, str]) -> messages.Options:
    """The fields that both commands set. Raises `InvalidArgument`."""
    mode = parsed.text("manage-cgroups-mode")
    if mode not in messages.CGROUP_MODES:
        raise InvalidArgument("Invalid manage cgroups mode")
    found = messages.Options(
        log_level=4,
        manage_cgroups=True,
        manage_cgroups_mode=messages.CGROUP_MODES[mode],
        notify_scripts=True,
        orphan_pts_master=True,
        empty_ns=_empty_namespaces(parsed.many("empty-ns")),
    )
    for option, field in _SAME.items():
        if parsed.flag(option):
            found.set(**{field: True})
    config = annotations.get(CONFIG_ANNOTATION, _CONFIG_FILE)
    if config:
        found.set(config_file=config)
    return found


def _empty_namespaces(names: list[str]) -> int:
    """The network always: its devices are not the runtime's."""
    bits = _CLONE_NEWNET
    for name in names:
        if name not in _NAMESPACES:
            raise InvalidArgument(f'namespace "{name}" is not supported')
        bits |= _NAMESPACES[name]
    return bits


def page_server(parsed: "Parsed") -> "tuple[str, int] | None":
    """--page-server ADDRESS:PORT. Raises `InvalidArgument`."""
    text = parsed.text("page-server")
    if not text:
        return None
    address, _, port = text.rpartition(":")
    if not address or not port:
        raise InvalidArgument("Use --page-server ADDRESS:PORT to specify page server")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidArgument("Invalid port number")
    return address.removeprefix("[").removesuffix("]"), int(port)


def status_fd(parsed: "Parsed") -> int:
    """--status-fd, when --lazy-pages makes it matter; -1 without. Raises `InvalidArgument`."""
    if "status-fd" not in parsed or not parsed.flag("lazy-pages"):
        return -1
    import fcntl

    fd = parsed.number("status-fd")
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except (OSError, ValueError, OverflowError) as error:
        reason = libc.words(error.errno or 0) if isinstance(error, OSError) else "bad file descriptor"
        raise InvalidArgument(f"invalid --status-fd argument {fd}: {reason}") from None
    if mode == os.O_RDONLY:
        raise InvalidArgument(f"invalid --status-fd argument {fd}: not writable")
    return fd
