"""The messages that a runtime and criu exchange (criu's images/rpc.proto): requests, and what is answered."""

from cutaway.runc.criu import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Pair = tuple[str, str | int]
    Value = bool | int | str | Pair | Sequence[str] | Sequence[Pair]

# enum criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
NAMES = {
    DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY", FEATURE_CHECK: "FEATURE_CHECK",
    VERSION: "VERSION",
}  # fmt: skip

# enum criu_cg_mode
CGROUP_MODES = {"": 6, "soft": 3, "full": 4, "strict": 5, "ignore": 0}

# criu_features
FEATURES = {"mem_track": 1, "lazy_pages": 2}

# criu_opts: those fields that a runtime sets.
_OPTIONS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5,
    "evasive_devices": 6, "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10, "ps": 11,
    "notify_scripts": 12, "root": 13, "parent_img": 14, "track_mem": 15, "auto_dedup": 16, "work_dir_fd": 17,
    "link_remap": 18, "ext_mnt": 23, "manage_cgroups": 24, "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27,
    "manage_cgroups_mode": 34, "external": 37, "empty_ns": 38, "join_ns": 39, "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46, "lazy_pages": 48, "status_fd": 49, "orphan_pts_master": 50, "config_file": 51,
    "lsm_profile": 53, "lsm_mount_context": 63,
}  # fmt: skip

# A pair is a message of fields 1 and 2: ext_mount_map, cgroup_root, join_namespace, inherit_fd, page server.


class Options:
    """criu_opts: set by the names of rpc.proto."""

    def __init__(self, **values: "Value") -> None:
        self._values: dict[str, Value] = {}
        self.set(**values)

    def set(self, **values: "Value") -> None:
        """Set fields. Raises KeyError for a name that is not known here."""
        for name, value in values.items():
            _OPTIONS[name]
            self._values[name] = value

    def get(self, name: str) -> "Value | None":
        return self._values.get(name)

    def encode(self) -> bytes:
        return b"".join(_field(_OPTIONS[name], value) for name, value in self._values.items())


def _field(field: int, value: "Value") -> bytes:
    if isinstance(value, list):
        return b"".join(_field(field, each) for each in value)
    if isinstance(value, int):
        return wire.number(field, value)
    if isinstance(value, str):
        return wire.data(field, value.encode(errors="surrogateescape"))
    return wire.data(field, b"".join(_field(index, part) for index, part in enumerate(value, 1)))


def request(kind: int, options: "Options | None" = None, features: str = "") -> bytes:
    """A criu_req."""
    text = wire.number(1, kind)
    if options is not None:
        text += wire.data(2, options.encode())
    if features:
        text += wire.data(5, wire.number(FEATURES[features], 1))
    return text


def notified() -> bytes:
    """The answer to a notification: what had to be done is done."""
    return wire.number(1, NOTIFY) + wire.number(3, 1)


class Response:
    """A criu_resp."""

    def __init__(self, text: bytes) -> None:
        fields = wire.decode(text)
        self.kind = _number(fields, 1)
        self.success = bool(_number(fields, 2))
        self.errno = _number(fields, 7)
        self.restored_pid = _number(_message(fields, 4), 1)
        notice = _message(fields, 5)
        script = notice.get(1, [b""])[-1]
        self.script = script.decode(errors="replace") if isinstance(script, bytes) else ""
        self.pid = _number(notice, 2)
        self.features = {name for name, field in FEATURES.items() if _number(_message(fields, 8), field)}
        self.version = _version(_message(fields, 10))


def _number(fields: "dict[int, list[int | bytes]]", field: int) -> int:
    value = fields.get(field, [0])[-1]
    return value if isinstance(value, int) else 0


def _message(fields: "dict[int, list[int | bytes]]", field: int) -> "dict[int, list[int | bytes]]":
    value = fields.get(field, [b""])[-1]
    return wire.decode(value) if isinstance(value, bytes) else {}


def _version(fields: "dict[int, list[int | bytes]]") -> int:
    """Two digits each for minor and sublevel: 3.17.1 is 31701. One built from git is its next minor."""
    major, minor, sublevel = (_number(fields, field) for field in (1, 2, 4))
    if fields.get(3, [b""])[-1]:
        minor, sublevel = minor + 1, 0
    return major * 10000 + minor * 100 + sublevel
