"""Network devices of the host that a container gets (config-linux.md, "Network Devices").

Moving one takes its addresses from it and switches it off; what was there is put back, in the container
or, when the create fails, on the host. A container that has ended gives nothing back: what happens to its
devices is its network namespace's affair.
"""

import os

from cutaway.errors import FailedPrecondition, NotFound
from cutaway.linux import libc, namespaces, rtnetlink
from cutaway.runc.plan.step import Here
from cutaway.runc.process.parent import Making, ParentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.rtnetlink import Address, Devices


class MoveNetDevice(ParentStep):
    """Move one device of the runtime's network namespace into the container's, with its addresses."""

    __slots__ = ("addresses", "index", "inside", "name", "netns", "new_name", "up")
    group = "network devices"

    def __init__(self, making: Making, name: str, new_name: str) -> None:
        super().__init__(making)
        self.name = name
        self.new_name = new_name or name
        self.netns = -1
        self.index = 0  # on the host; 0: nothing was done to it
        self.inside = 0  # index in the container; 0: it is not there
        self.up = False
        self.addresses: list[Address] = []

    def describe(self) -> str:
        return f"move network device {self.name} into the container as {self.new_name}"

    def command(self) -> str:
        return f"ip link set {self.name} netns {self.making.pid} name {self.new_name}"

    def failure(self, reason: str) -> str:
        return f"unable to move network devices: {reason}"

    def execute(self, here: Here) -> None:
        self.netns = os.open(namespaces.file_of("network", self.making.pid), os.O_RDONLY | os.O_CLOEXEC)
        host = rtnetlink.Devices()
        try:
            container = rtnetlink.Devices(self.netns)
            try:
                self._move(host, container)
            finally:
                container.close()
        finally:
            host.close()

    def _move(self, host: "Devices", container: "Devices") -> None:
        link = host.find(self.name)
        if link is None:
            raise NotFound(f"link not found for interface {self.name} on runtime namespace: Link not found")
        before = {each.index: each.name for each in container.links()}
        if self.new_name in before.values():
            raise self._impossible("file exists")
        self.addresses = host.addresses(link.index)  # IPv6 ones go when it is switched off
        self.index, self.up = link.index, link.up
        host.switch(link.index, up=False)
        try:
            host.move(link.index, self.netns, self.new_name)
        except OSError as error:
            raise self._impossible(libc.words(error.errno or 0)) from None
        finally:  # a move may succeed and its renaming fail
            arrived = [each for each in container.links() if each.index not in before]
            self.inside = arrived[0].index if arrived else 0
        for address in self.addresses:
            container.add(self.inside, address)
        container.switch(self.inside, up=True)

    def _impossible(self, reason: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"fail to move network device {self.name} to network namespace "
            f"{namespaces.file_of('network', self.making.pid)}: {reason}"
        )

    def undo(self) -> None:
        """Back to where it was and as it was: its end with the namespace would be the host's loss."""
        if self.index:
            host = rtnetlink.Devices()
            try:
                self._restore(host)
            finally:
                host.close()
        if self.netns >= 0:
            os.close(self.netns)

    def _restore(self, host: "Devices") -> None:
        if self.inside:
            container = rtnetlink.Devices(self.netns)
            own = os.open(namespaces.file_of("network"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                container.switch(self.inside, up=False)
                container.move(self.inside, own, self.name)
            finally:
                os.close(own)
                container.close()
        link = host.find(self.name)
        if link is None:
            return
        for address in self.addresses:
            host.add(link.index, address)
        if self.up:
            host.switch(link.index, up=True)
