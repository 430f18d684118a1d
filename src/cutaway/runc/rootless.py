"""Running without root: where the state goes, what a configuration must hold, what cgroups can be had.

Two questions, kept apart as in runc:

unprivileged      the effective uid is not 0: a container needs a user namespace, and what only root may
                  do is not tried
missing cgroups   cgroups may be out of reach: so for everybody who is not root, and for root in a user
                  namespace (podman), unless `--rootless` says otherwise
"""

import os

from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, PermissionDenied
from cutaway.linux import libc, smallfile
from cutaway.runc.options import FALSE, TRUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.linux.cgroups.base import Manager
    from cutaway.oci.runtime_spec import IdMapping, Process, Resources, Spec

_ALL_IDS = [b"0", b"0", b"4294967295"]  # the initial user namespace's map
_STICKY = 0o1000


def unprivileged() -> bool:
    """Whether we are not root, not even in a user namespace."""
    return os.geteuid() != 0


def in_user_namespace() -> bool:
    """Whether we are in a user namespace other than the initial one (user_namespaces(7))."""
    try:
        text = smallfile.read("/proc/self/uid_map")
    except FileNotFoundError:
        return False  # a kernel without user namespaces
    return text.split() != _ALL_IDS


def default_root(privileged_root: str, name: str) -> str:
    """Where state goes without `--root`: below XDG_RUNTIME_DIR for everybody but the host's root."""
    directory = _runtime_directory()
    return f"{directory}/{name}" if directory else privileged_root


def _runtime_directory() -> str:
    """XDG_RUNTIME_DIR where it counts, else ""."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    if not directory or unprivileged():
        return directory
    # The host's root may have one of a login session, which ends before the containers do.
    return directory if in_user_namespace() and os.environ.get("USER") != "root" else ""


def make_default_root(root: str) -> None:
    """Make the root below XDG_RUNTIME_DIR, with the sticky bit that keeps it from being tidied away
    (XDG Base Directory Specification). Raises `FailedPrecondition`."""
    if not _runtime_directory():
        return
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(
            f"the path in $XDG_RUNTIME_DIR must be writable by the user: mkdir {root}: {_words(error)}"
        ) from None
    try:
        os.chmod(root, 0o700 | _STICKY)
    except OSError as error:
        raise FailedPrecondition(
            f"you should check permission of the path in $XDG_RUNTIME_DIR: chmod {root}: {_words(error)}"
        ) from None


def _words(error: OSError) -> str:
    return libc.words(error.errno or 0)


def seccomp_cache(privileged_cache: str) -> str:
    """Where compiled filters are kept."""
    directory = _runtime_directory()
    return f"{directory}/cutaway/seccomp" if directory else privileged_cache


def may_lack_cgroups(choice: str, *, systemd: bool) -> bool:
    """What `--rootless` (true, false, auto) comes to. Raises `InvalidArgument`, in runc's words."""
    if choice not in ("", "auto"):
        if choice not in TRUE and choice not in FALSE:
            raise InvalidArgument(f'strconv.ParseBool: parsing "{choice}": invalid syntax')
        return choice in TRUE
    if unprivileged():
        return True
    return in_user_namespace() and not systemd  # a root with a systemd of its own has its cgroups too


def check(spec: "Spec") -> None:
    """What a configuration must hold to be run without root. Raises `InvalidArgument`."""
    linux = spec.linux
    if linux is None:
        return
    if not any(namespace.type == "user" for namespace in linux.namespaces):
        raise InvalidArgument("rootless container requires user namespaces")
    for mount in spec.mounts:
        for option in mount.options:
            _owner_option(option, "uid", linux.uid_mappings)
            _owner_option(option, "gid", linux.gid_mappings)


def _owner_option(option: str, kind: str, mappings: "list[IdMapping]") -> None:
    name, _, value = option.partition("=")
    if name == kind and value.isdecimal() and mappings and not _mapped(int(value), mappings):
        raise InvalidArgument(
            f"cannot specify {kind}= mount options for unmapped {kind} in rootless containers"
        )


def _mapped(number: int, mappings: "list[IdMapping]") -> bool:
    return any(m.container_id <= number < m.container_id + m.size for m in mappings)


def check_user(process: "Process", spec: "Spec") -> None:
    """Whether the process's user exists in the user namespace. Raises `InvalidArgument`."""
    linux = spec.linux
    if linux is None or not any(namespace.type == "user" for namespace in linux.namespaces):
        return
    user = process.user
    ids = (("uid", user.uid, linux.uid_mappings), ("gid", user.gid, linux.gid_mappings))
    for kind, number, mappings in ids:
        if mappings and not _mapped(number, mappings):
            raise InvalidArgument(_setup(f"cannot set {kind} to unmapped user in user namespace"))
    if unprivileged() and user.additional_gids:
        raise InvalidArgument(_setup("cannot set any additional groups in a rootless container"))


def _setup(reason: str) -> str:
    return f"unable to start container process: unable to setup user: {reason}"


def permitted(manager: "Manager", resources: "Resources | None", *, asked: bool) -> "Manager":
    """Without a wish for a cgroup (`asked`), only those that we may make. Raises `PermissionDenied`."""
    from cutaway.linux.cgroups import permission

    found = permission.permitted(manager, asked=asked)
    if manager.version == 2 and not found.paths() and permission.limits(resources):
        raise PermissionDenied(
            "unable to start container process: unable to apply cgroup configuration: "
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: "
            f"mkdir {manager.main_path()}: permission denied"
        )
    return found


def limit(manager: "Manager", resources: "Resources | None") -> None:
    """Write the limits where cgroups may be missing: a limit that cannot be had is an error, device rules
    are tried (both cgroup versions keep them for root). Raises the classes of `cutaway.errors`."""
    manager.apply(resources, devices=False)
    try:
        manager.apply_devices(resources)
    except CutawayError:
        return
