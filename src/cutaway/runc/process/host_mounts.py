"""A container without a mount namespace of its own: its mounts are made where the runtime lives.

The specification has it inherit the runtime's mount namespace, so there they appear, all of them on a bind
of the root upon itself. Nothing ends with the container then: `delete` unmounts that bind, and what is on
it with it. How many mounts its directory had before is written down, so that no more than ours go.
"""

from cutaway.linux import mounts
from cutaway.runc.plan.step import Here
from cutaway.runc.process.parent import Making, ParentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.state import Record


def unmount(record: "Record") -> None:
    """Take away what the container has mounted in the runtime's namespace; nothing if it has its own.

    Raises OSError.
    """
    if record.root_mounts is None:
        return
    while mounts.stacked(record.rootfs) > record.root_mounts:
        mounts.umount(record.rootfs, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)


class MountOnHost(ParentStep):
    """Stand by to take back what init mounts; it does the mounting."""

    __slots__ = ()
    group = "rootfs"

    def __init__(self, making: Making) -> None:
        super().__init__(making)

    def describe(self) -> str:
        return "let init mount in the runtime's own mount namespace"

    def command(self) -> str:
        return "# no unshare --mount"

    def execute(self, here: Here) -> None:
        """Nothing yet."""

    def undo(self) -> None:
        unmount(self.making.container.record)
