"""The runtime's options: which OCI runtime is called, and how.

They come as a `containerd.runc.v1.Options` in an Any (absent, and empty, from ctr) and are kept in
the bundle as `options.json` and `runtime`, which `delete` reads after a crash. The JSON has the
field names of the protobuf, as containerd's shim writes it; zero values are left out.
"""

import os

from cutaway.errors import InvalidArgument
from cutaway.faults import point
from cutaway.linux import smallfile
from cutaway.oci.document import Document, dumps, field, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

TYPE = "containerd.runc.v1.Options"
DEFAULT_ROOT = "/run/containerd/runc"

_RUNTIME = "runtime"
_DELETED = "runtime.deleted"
_OWN_SHIM = "containerd-shim-cutaway"
_OWN_RUNTIME = "cutaway-runc"


class Options(Document):
    """Fields that are None or false are as the runtime has it."""

    no_pivot_root: bool | None = field(default=None, name="no_pivot_root")
    no_new_keyring: bool | None = field(default=None, name="no_new_keyring")
    shim_cgroup: str | None = field(default=None, name="shim_cgroup")
    io_uid: int | None = field(default=None, name="io_uid")
    io_gid: int | None = field(default=None, name="io_gid")
    binary_name: str | None = field(default=None, name="binary_name")
    root: str | None = None
    criu_path: str | None = field(default=None, name="criu_path")
    systemd_cgroup: bool | None = field(default=None, name="systemd_cgroup")
    criu_image_path: str | None = field(default=None, name="criu_image_path")
    criu_work_path: str | None = field(default=None, name="criu_work_path")
    task_api_address: str | None = field(default=None, name="task_api_address")
    task_api_version: int | None = field(default=None, name="task_api_version")


def is_ours(value: "Any") -> bool:
    """Whether these are options for a shim of runc."""
    return value.type_url.rpartition("/")[2] == TYPE


def from_any(value: "Any") -> Options:
    """What a request holds; options of another type are none of ours.

    Raises `InvalidArgument` when the bytes are not what the type says.
    """
    if not (is_ours(value) and value.value):
        return Options()
    from google.protobuf.message import DecodeError

    from cutaway.pb import runc_options_pb2

    try:
        given = runc_options_pb2.Options.FromString(value.value)
    except DecodeError as error:
        raise InvalidArgument(f"runtime options: {error}") from None
    return Options(**{name: getattr(given, name) or None for name in Options._fields})


def write(bundle: str, options: Options, binary: str) -> None:
    """Leave in the bundle what `delete` needs. Raises OSError."""
    smallfile.write(f"{bundle}/options.json", dumps(options).encode(), 0o600)
    point("shim.create.options-noted")
    smallfile.write(f"{bundle}/{_RUNTIME}", os.fsencode(binary), 0o600)
    if is_deleted(bundle):
        os.unlink(f"{bundle}/{_DELETED}")


def mark_deleted(bundle: str) -> None:
    """Note that the runtime has forgotten the container: `delete` need not ask it again."""
    try:
        os.link(f"{bundle}/{_RUNTIME}", f"{bundle}/{_DELETED}")  # a second name is cheaper than a file
    except OSError:
        return  # a bundle that is gone or cannot be written, or so marked: at worst `delete` asks once more


def is_deleted(bundle: str) -> bool:
    return os.path.exists(f"{bundle}/{_DELETED}")


def read(bundle: str) -> tuple[Options, str]:
    """Options and runtime binary of a bundle; defaults where a crash came before they were written."""
    options = Options()
    text = _read(f"{bundle}/options.json")
    if text:
        options = loads(Options, text, "options.json")
    return options, _read(f"{bundle}/{_RUNTIME}")


def _read(path: str) -> str:
    try:
        return os.fsdecode(smallfile.read(path))
    except FileNotFoundError:
        return ""


def default_binary(program: str) -> str:
    """The runtime for a shim that was started as `program`, when the options name none.

    Under its own name the shim calls `cutaway-runc`, the one beside it if there is one; under
    another's (containerd-shim-runc-v2) it calls what the other would.
    """
    if not os.path.basename(program).startswith(_OWN_SHIM):
        return "runc"
    beside = os.path.join(os.path.dirname(os.path.realpath(program)), _OWN_RUNTIME)
    return beside if os.access(beside, os.X_OK) else _OWN_RUNTIME
