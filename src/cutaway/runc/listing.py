"""A container as `state` and `list` show it."""

import os

from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def entry(container: state.Container) -> "dict[str, Any]":
    """runc's JSON for one container: the specification's state with rootfs, created and owner besides."""
    record = container.record
    status = container.status()
    found: dict[str, Any] = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": 0 if status == state.STOPPED else record.pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    if record.annotations:
        found["annotations"] = record.annotations
    found["owner"] = ""
    return found


def owner(container: state.Container) -> str:
    """The name of the user whose container it is; its uid where it has no name."""
    import pwd

    uid = os.stat(container.directory).st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
