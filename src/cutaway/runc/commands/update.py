"""`update`: change the limits of a running container."""

import sys

from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from cutaway.linux import libc
from cutaway.oci import document
from cutaway.oci.runtime_spec import BlockIo, Cpu, Memory, Pids, Resources
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run(context: "Context", parsed: "Parsed") -> int:
    """Update; 0."""
    container = state.load(context.root, parsed.arguments[0])
    source = parsed.text("resources")
    resources = _read(source) if source else _from_options(parsed)
    _refuse_rdt(parsed)
    memory = resources.memory
    if memory and (memory.kernel or memory.kernel_tcp):
        context.log.warning("Kernel memory settings are ignored and will be removed")
    with state.Lock(container.directory):
        if container.status() == state.STOPPED:
            raise FailedPrecondition("container not running")
        container.cgroup().apply(resources, devices=False)
    return 0


def _refuse_rdt(parsed: "Parsed") -> None:
    for option, feature, what in (
        ("l3-cache-schema", "CAT", "l3 cache schema"),
        ("mem-bw-schema", "MBA", "memory bandwidth schema"),
    ):
        if parsed.text(option):
            raise Unimplemented(f"Intel RDT/{feature}: {what} is not enabled")


def _read(source: str) -> Resources:
    if source == "-":
        return document.loads(Resources, sys.stdin.buffer.read(), "stdin")
    try:
        with open(source, "rb") as file:
            return document.loads(Resources, file.read(), source)
    except OSError as error:
        raise NotFound(f"open {source}: {libc.words(error.errno or 0)}") from None


def _from_options(parsed: "Parsed") -> Resources:
    """Only what was given: the rest stays as it is."""
    cpu = Cpu(
        shares=_number(parsed, "cpu-share"),
        quota=_number(parsed, "cpu-quota"),
        period=_number(parsed, "cpu-period"),
        burst=_number(parsed, "cpu-burst"),
        idle=_number(parsed, "cpu-idle"),
        realtime_runtime=_number(parsed, "cpu-rt-runtime"),
        realtime_period=_number(parsed, "cpu-rt-period"),
        cpus=parsed.text("cpuset-cpus") or None,
        mems=parsed.text("cpuset-mems") or None,
    )
    memory = Memory(
        limit=_bytes(parsed, "memory"),
        reservation=_bytes(parsed, "memory-reservation"),
        swap=_bytes(parsed, "memory-swap"),
        kernel=_bytes(parsed, "kernel-memory"),
        kernel_tcp=_bytes(parsed, "kernel-memory-tcp"),
    )
    weight = parsed.number("blkio-weight")
    return Resources(
        cpu=cpu,
        memory=memory,
        pids=Pids(limit=parsed.number("pids-limit")) if "pids-limit" in parsed else None,
        block_io=BlockIo(weight=weight) if weight else None,
    )


def _number(parsed: "Parsed", name: str) -> int | None:
    text = parsed.text(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(
            f'invalid value for {name}: strconv.ParseInt: parsing "{text}": invalid syntax'
        ) from None


def _bytes(parsed: "Parsed", name: str) -> int | None:
    """A size like 64m; -1 stays what it is: no limit."""
    text = parsed.text(name).lower()
    if not text:
        return None
    if text == "-1":
        return -1
    number = text.rstrip("bkmgti")
    unit = text[len(number) :].removesuffix("ib").removesuffix("b") if len(text) > len(number) else ""
    if not number.isdecimal() or unit not in _UNITS:
        raise InvalidArgument(f"invalid value for {name}: invalid size: {text!r}")
    return int(number) * _UNITS[unit]
