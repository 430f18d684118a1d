"""`linux.intelRdt`: checked, and made into a container's resctrl group (config-linux.md, "IntelRdt")."""

from cutaway.errors import InvalidArgument
from cutaway.linux import resctrl
from cutaway.runc.checks import wrong
from cutaway.runc.plan.step import Here
from cutaway.runc.process.parent import Making, ParentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import IntelRdt


def check(found: "IntelRdt", root: str) -> None:
    """Check the field against what the machine has; `root` is resctrl's. Raises `InvalidArgument`."""
    if not root:
        words = "intelRdt is specified in config, but Intel RDT is not enabled"
        raise wrong(words, "linux.intelRdt", "none on this host")
    clos = found.clos_id or ""
    if clos in (".", "..") or "\0" in clos or (len(clos) > 1 and "/" in clos):
        raise wrong(f'invalid intelRdt.ClosID "{clos}"', "linux.intelRdt.closID", "the name of a directory")
    if found.l3_cache_schema and not resctrl.has(root, "L3"):
        words = "intelRdt.l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled"
        raise wrong(words, "linux.intelRdt.l3CacheSchema", "none on this host")
    if found.mem_bw_schema and not resctrl.has(root, "MB"):
        words = "intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled"
        raise wrong(words, "linux.intelRdt.memBwSchema", "none on this host")
    if found.mem_bw_schema and not found.mem_bw_schema.startswith("MB:"):
        raise InvalidArgument(
            f"linux.intelRdt.memBwSchema: expected it to start with MB:, got {found.mem_bw_schema!r}"
        )
    for line in schemata(found):
        if "\n" in line:
            raise InvalidArgument(f"linux.intelRdt: a schema must not contain newlines, got {line!r}")


def schemata(found: "IntelRdt") -> list[str]:
    """The lines for `schemata`, in the order that the specification wants."""
    lines = [found.l3_cache_schema or "", found.mem_bw_schema or "", *found.schemata]
    return [line for line in lines if line]


class EnterResctrl(ParentStep):
    """Make the container's resctrl group, if it is its own, and move init there."""

    __slots__ = ("lines", "resctrl")
    group = "cgroup"

    def __init__(self, making: Making, found: "IntelRdt", root: str) -> None:
        super().__init__(making)
        identity = making.container.id
        monitored = bool(found.enable_monitoring)
        self.resctrl = resctrl.Group(root, identity, found.clos_id or "", monitored)
        self.lines = schemata(found)

    def describe(self) -> str:
        return f"enter the resctrl group {self.resctrl.path}"

    def command(self) -> str:
        return f"echo {self.making.pid} > {self.resctrl.path}/tasks"

    def failure(self, reason: str) -> str:
        return f"unable to apply Intel RDT configuration: {reason}"

    def execute(self, here: Here) -> None:
        self.making.container.record.resctrl_groups = self.resctrl.temporary()
        self.making.container.save()  # before they exist: whoever kills us, `delete` finds them
        self.resctrl.make(self.lines)
        self.resctrl.enter(self.making.pid)

    def undo(self) -> None:
        resctrl.remove(self.resctrl.made)
