"""`checkpoint`: have criu write a container's processes to images, and end it unless it is to go on."""

import os

from cutaway.linux import smallfile
from cutaway.runc.criu import external, messages, options
from cutaway.runc.criu.swrk import Criu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Spec
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.state import Container

_FREEZES_V2 = 31400
_EXTERNAL_NET, _EXTERNAL_PID = 31100, 31500
LOG = "dump.log"


def dump(context: "Context", container: "Container", parsed: "Parsed") -> None:
    """Write the images. Raises `InvalidArgument` for what the command line asks, else as `Criu.converse`."""
    spec = container.load_spec()
    folders = options.folders(parsed)
    request = options.common(parsed, container.record.annotations)
    server = options.page_server(parsed)
    if server is not None:
        request.set(ps=server)
    os.makedirs(folders.images, mode=0o700, exist_ok=True)
    if parent := options.parent(parsed, folders.images):
        request.set(parent_img=parent, track_mem=True)
    status_fd = options.status_fd(parsed)
    criu = Criu(context.criu)
    version = criu.version()
    _check_features(criu, parsed)
    pre_dump = parsed.flag("pre-dump")
    _describe(request, container, spec, version)
    if not pre_dump:
        _describe_outside(request, container, spec)
    try:
        request.set(log_file=LOG, **folders.open(make=True))
        if not pre_dump:
            text = _json(external.descriptors(container.record.pid))
            smallfile.write(os.path.join(folders.images, external.DESCRIPTORS), text, 0o600)
        kind = messages.PRE_DUMP if pre_dump else messages.DUMP
        criu.converse(
            lambda pid: messages.request(kind, request),
            lambda answer, fd: _notified(answer, status_fd),
            log_file=os.path.join(folders.work or folders.images, LOG),
        )
    finally:
        folders.close()


def _json(value: list[str]) -> bytes:
    from cutaway.oci import jsontext

    return jsontext.dumps(value).encode()


def _check_features(criu: Criu, parsed: "Parsed") -> None:
    if parsed.flag("pre-dump"):
        criu.need("mem_track", "MemTrack")
    if parsed.flag("lazy-pages"):
        criu.need("lazy_pages", "LazyPages")


def _describe(request: messages.Options, container: "Container", spec: "Spec", version: int) -> None:
    """The process tree, its root, the namespaces that are not its own, and how it is stopped."""
    record = container.record
    request.set(pid=record.pid, root=record.rootfs)
    names = []
    for kind, path in external.joined(spec, by_descriptor=True):
        if version >= (_EXTERNAL_NET if kind == "net" else _EXTERNAL_PID):
            names.append(f"{kind}[{os.stat(path).st_ino}]:{external.key(kind)}")
    if names:
        request.set(external=names)
    cgroups = record.cgroup_paths
    freezer = cgroups.get("freezer") or (cgroups.get("") if version >= _FREEZES_V2 else None)
    if freezer:  # or else criu stops one process after another, by ptrace
        request.set(freeze_cgroup=freezer)


def _describe_outside(request: messages.Options, container: "Container", spec: "Spec") -> None:
    from cutaway.runc import cgroup_setup

    record = container.record
    views = cgroup_setup.views(container.cgroup())
    inside = [(place, place) for place, _ in external.mounts(spec, record, views)]
    masks = [(path, external.NULL) for path in external.masked_files(spec, record.pid)]
    if inside or masks:
        request.set(ext_mnt=[*inside, *masks])


def _notified(answer: messages.Response, status_fd: int) -> None:
    """Of what criu tells, only one thing is to be done: say that pages can be asked for (criu 3.15)."""
    if answer.script == "status-ready" and status_fd >= 0:
        os.write(status_fd, b"\0")
        os.close(status_fd)
