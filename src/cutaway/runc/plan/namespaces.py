"""Which namespaces a container gets: new ones, others' by path, or the runtime's own."""

from cutaway.linux import namespaces as kinds
from cutaway.runc import rootless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import IdMapping, Linux

# clone(2) can make these along with the process. Not here: `user`, which must be there before, so that
# the others belong to it; `time`, whose bit is taken by the exit signal; and `cgroup`, whose root must be
# the cgroup that the process is moved to afterwards.
_BY_CLONE = ("ipc", "uts", "network", "pid", "mount")
# In what order to join those besides the user namespace; the mount namespace last, as paths end with it.
JOIN_ORDER = ("ipc", "uts", "network", "pid", "cgroup", "time", "mount")
# What the runtime can join for the moment of the clone, and leave again: setns(2) moves the caller itself,
# at once, and does not take what the way back needs (as joining a mount namespace takes the root).
_FOR_A_MOMENT = frozenset({"ipc", "uts", "network"})
# What takes the kernel so long to make that it pays to join it afterwards.
_SLOW = ("network",)


class NamespacePlan:
    """The namespaces of one container, from its configuration."""

    def __init__(self, linux: "Linux | None") -> None:
        self.new: list[str] = []
        self.joined: dict[str, str] = {}
        self.made: list[str] = []  # those of the new ones that are there before the process is
        self._places: dict[str, int] = {}
        for index, namespace in enumerate(linux.namespaces if linux else ()):
            self._places[namespace.type] = index
            if namespace.path:
                self.joined[namespace.type] = namespace.path
            else:
                self.new.append(namespace.type)
        # Of the user namespace, new or (once `joined_user.learn` has looked) joined.
        self.uid_map = triples(linux.uid_mappings if linux else [])
        self.gid_map = triples(linux.gid_mappings if linux else [])
        self.time_offsets: dict[str, tuple[int, int]] = {}
        for clock, offset in ((linux.time_offsets or {}) if linux else {}).items():
            self.time_offsets[clock] = (offset.secs, offset.nanosecs)

    def is_new(self, kind: str) -> bool:
        return kind in self.new

    def has(self, kind: str) -> bool:
        """Whether the container's namespace of this kind is not the runtime's own."""
        return kind in self.new or kind in self.joined

    def place(self, kind: str) -> str:
        """Where the configuration gives the path of a namespace to join, for messages."""
        return f"linux.namespaces[{self._places[kind]}].path"

    @property
    def clone_flags(self) -> int:
        """The flags that make the new namespaces along with the process."""
        return sum(kinds.flag(kind) for kind in self.new if kind in _BY_CLONE and kind not in self.made)

    @property
    def may_be_made(self) -> list[str]:
        """The new namespaces that can be made before the process, which then joins them."""
        return (
            []
            if self.needs_bridge or rootless.in_user_namespace()
            else [kind for kind in self.new if kind in _SLOW]
        )

    @property
    def needs_bridge(self) -> bool:
        """Whether a process in between must join or prepare something before init can be made.

        Also for a new user namespace: the others belong to its root only if whoever makes them is that. And
        within a user namespace, where our own are somebody else's: who has left them may not come back.
        """
        if not _FOR_A_MOMENT.issuperset(self.joined) or "time" in self.new or "user" in self.new:
            return True
        return bool(self.joined) and rootless.in_user_namespace()

    def host_root(self) -> tuple[int, int]:
        """The host's uid and gid that are 0 in the container."""
        return self.outside(0, 0)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """A uid and a gid of the container as the host's; 0 for what is not mapped."""
        return self.host_uid(uid) or 0, (_host_id(self.gid_map, gid) if self.has("user") else gid) or 0

    def host_uid(self, uid: int) -> int | None:
        """The host's uid of one in the container; None where it is not mapped."""
        return _host_id(self.uid_map, uid) if self.has("user") else uid

    def describe(self) -> str:
        """The namespaces in words: new by kind, joined with their path."""
        joined = [f"{kind}={path}" for kind, path in self.joined.items()]
        return ", ".join([*(f"new {kind}" for kind in self.new), *joined]) or "the runtime's own"


def triples(mappings: "list[IdMapping]") -> list[tuple[int, int, int]]:
    """Mappings as the kernel takes them: (inside, outside, how many)."""
    return [(mapping.container_id, mapping.host_id, mapping.size) for mapping in mappings]


def _host_id(mappings: list[tuple[int, int, int]], wanted: int) -> int | None:
    for inside, outside, size in mappings:
        if inside <= wanted < inside + size:
            return outside + wanted - inside
    return None
