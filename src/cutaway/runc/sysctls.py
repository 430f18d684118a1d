"""Kernel parameters of a configuration: their names, and which of them are the container's own."""

import os

from cutaway.linux import namespaces
from cutaway.runc.checks import texts, wrong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Spec

_IPC = frozenset(
    "kernel." + name
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_SWAP = str.maketrans("./", "/.")


def dotted(key: str) -> str:
    """A name with dots between its parts. One whose first separator is a slash (sysctl.d(5)) has its
    dots and slashes swapped: net/ipv4/conf/eth0.1/rp_filter is net.ipv4.conf.eth0/1.rp_filter."""
    first = min((at for at in (key.find("."), key.find("/")) if at >= 0), default=-1)
    return key.translate(_SWAP) if first >= 0 and key[first] == "/" else key


def path(key: str) -> str:
    """The file of a parameter below /proc/sys."""
    return dotted(key).translate(_SWAP)


def check(found: "Spec") -> None:
    """Only what belongs to a namespace of the container's own may be set. Raises `InvalidArgument`."""
    linux = found.linux
    if linux is None:
        return
    kinds = {namespace.type: namespace.path or "" for namespace in linux.namespaces}
    for key, value in linux.sysctl.items():
        texts("linux.sysctl", [key, value])
        where = f"linux.sysctl.{key}"
        if any(part in ("", ".", "..") for part in path(key).split("/")):
            raise wrong(f'sysctl "{key}" is not a name', where, "a name such as net.ipv4.ip_forward")
        _check(dotted(key), kinds, where)


def _check(key: str, kinds: dict[str, str], where: str) -> None:
    if key in _IPC or key.startswith("fs.mqueue."):
        if "ipc" not in kinds:
            words = f'sysctl "{key}" is not allowed in the hosts ipc namespace'
            raise wrong(words, where, "an ipc namespace for it")
    elif key.startswith("net."):
        if "network" not in kinds or is_own_network(kinds["network"]):
            words = f'sysctl "{key}" not allowed in host network namespace'
            raise wrong(words, where, "a network namespace for it")
    elif key == "kernel.hostname" and "uts" in kinds:
        words = f'sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field'
        raise wrong(words, where, "hostname instead")
    elif key.startswith("user."):
        if "user" not in kinds:
            words = f"setting ucounts without a user namespace not allowed: {key}"
            raise wrong(words, where, "a user namespace for it")
    elif not (key == "kernel.domainname" and "uts" in kinds):
        words = f'sysctl "{key}" is not in a separate kernel namespace'
        raise wrong(words, where, "a parameter of a namespace of the container's own")


def is_own_network(path: str) -> bool:
    """Whether the path of a network namespace is the runtime's own."""
    if not path:
        return False
    try:
        return os.path.samefile(path, namespaces.file_of("network"))
    except OSError:
        return False  # joining it will say what is wrong
