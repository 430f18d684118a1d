"""Whose group a container's root is on the host, which is all that the daemon reads of a spec."""

from __future__ import annotations

from cutaway.errors import CutawayError
from cutaway.oci.document import loads
from cutaway.oci.runtime_spec import Spec


def root_group(spec: bytes) -> int:
    """The host's id of the container's group 0; 0 without a user namespace or for a spec that is unreadable.

    What is wrong with a spec is the runtime's to say.
    """
    if b'"gidMappings"' not in spec:
        return 0
    try:
        linux = loads(Spec, spec, "spec").linux
    except CutawayError:
        return 0
    mappings = linux.gid_mappings if linux else []
    return next((mapping.host_id for mapping in mappings or [] if mapping.container_id == 0), 0)
