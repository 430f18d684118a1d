"""Saving a container to files, and the files that one is to be made from again.

The work is criu's, which the runtime calls. Source: containerd's runc shim (process/init.go), go-runc.
"""

from cutaway.errors import CutawayError, InvalidArgument, Unknown
from cutaway.shim import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from cutaway.pb.runc_options_pb2 import CheckpointOptions
    from cutaway.shim.options import Options
    from cutaway.shim.runtime import Runtime

_TYPE = "containerd.runc.v1.CheckpointOptions"
_WORK = "criu-work"  # below the bundle's work folder
_DUMP_LOG = "criu-dump.log"

_SWITCHES = (
    ("open_tcp", "--tcp-established"),
    ("external_unix_sockets", "--ext-unix-sk"),
    ("terminal", "--shell-job"),
    ("file_locks", "--file-locks"),
)


class Saved:
    """What a container is to be restored from: a folder of criu's images."""

    __slots__ = ("_parent", "_work", "path")

    def __init__(self, path: str, parent: str, settings: "Options", bundle: str) -> None:
        self.path = path
        self._parent = parent
        self._work = settings.criu_work_path or f"{bundle}/work"

    def arguments(self) -> list[str]:
        """The runtime's words for it."""
        parent = ["--parent-path", self._parent] if self._parent else []
        return ["--image-path", self.path, "--work-path", self._work, *parent]


def options_of(value: "Any") -> "CheckpointOptions":
    """What a request says about how to save; nothing means the defaults. Raises `InvalidArgument`."""
    from google.protobuf.message import DecodeError

    from cutaway.pb.runc_options_pb2 import CheckpointOptions

    if not value.type_url:
        return CheckpointOptions()
    if value.type_url.rpartition("/")[2] != _TYPE:
        raise InvalidArgument(f"checkpoint options of type {value.type_url}: {_TYPE} is needed")
    try:
        return CheckpointOptions.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"checkpoint options: {error}") from None


async def save(runtime: "Runtime", container: str, bundle: str, path: str, how: "CheckpointOptions") -> None:
    """Save a running container to `path`. Raises `Unknown`; criu's log is then in the bundle."""
    import shutil  # brings three compression libraries, which every fork of the zygote would carry

    work = how.work_path or f"{bundle}/work/{_WORK}"
    try:
        await runtime.checkpoint(container, _arguments(path, work, how))
    except CutawayError as error:
        kept = f"{bundle}/{_DUMP_LOG}"
        try:
            shutil.copyfile(f"{work}/dump.log", kept)
        except OSError as problem:
            log.error(f"failed to copy dump.log to {_DUMP_LOG}: {problem}")
        reason = error.message.partition("\n")[0]
        raise Unknown(f"{reason} path= {kept}") from None
    finally:
        if not how.work_path:
            shutil.rmtree(work, ignore_errors=True)


def _arguments(path: str, work: str, how: "CheckpointOptions") -> list[str]:
    words = ["--image-path", path, "--work-path", work]
    if how.parent_path:
        words += ["--parent-path", how.parent_path]
    words += [switch for field, switch in _SWITCHES if getattr(how, field)]
    if how.cgroups_mode:
        words += ["--manage-cgroups-mode", how.cgroups_mode]
    for namespace in how.empty_namespaces:
        words += ["--empty-ns", namespace]
    return words if how.exit else [*words, "--leave-running"]
