"""The maps of a user namespace that a container joins by path: its owner's, not the configuration's."""

import os

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.linux import libc, namespaces, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.logs import Log
    from cutaway.runc.plan.namespaces import NamespacePlan

_REPEATED = (
    "config.json has both a userns path to join and a matching userns mapping specified "
    "-- you may only provide one"
)


def learn(plan: "NamespacePlan", log: "Log") -> None:
    """Put the maps of the user namespace to join into the plan.

    Maps of the configuration may only say the same: containerd and CRI-O give both. Raises `NotFound`,
    `InvalidArgument`, and `FailedPrecondition` when the namespace cannot be entered.
    """
    fd = namespaces.open_file("user", plan.joined["user"], plan.place("user"))
    try:
        uid_map, gid_map = userns.maps(fd)
    except OSError as error:
        raise FailedPrecondition(f"failed to cache mappings for userns: {libc.reason(error)}") from None
    finally:
        os.close(fd)
    if plan.uid_map or plan.gid_map:
        if sorted(plan.uid_map) != sorted(uid_map) or sorted(plan.gid_map) != sorted(gid_map):
            raise InvalidArgument(
                "user namespaces enabled, but both namespace path and non-matching mapping specified "
                "-- you may only provide one"
            )
        log.warning(_REPEATED)
    plan.uid_map, plan.gid_map = uid_map, gid_map
