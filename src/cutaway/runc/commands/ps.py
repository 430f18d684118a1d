"""`ps`: the processes of a container, as the host numbers them."""

import os
import sys

from cutaway.errors import FailedPrecondition, InvalidArgument
from cutaway.runc import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Print the processes; 0."""
    if context.may_lack_cgroups():
        context.log.warning("runc ps may fail if you don't have the full access to cgroups")
    form = parsed.text("format", "table")
    container = state.load(context.root, parsed.arguments[0])
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    pids = container.cgroup().pids()
    if form == "json":
        text = f"[{','.join(map(str, pids))}]\n" if pids else "null\n"
    else:
        text = _table(set(pids), parsed.arguments[1:] or ["-ef"])
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _table(pids: set[int], options: list[str]) -> str:
    """The host's `ps` with the given options, less the lines of other processes."""
    lines = _ps(options).splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise FailedPrecondition("couldn't find PID field in ps output")
    column = titles.index("PID")
    kept = [lines[0]]
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def _ps(options: list[str]) -> str:
    ours, theirs = os.pipe()
    try:
        pid = os.posix_spawnp(
            "ps",
            ["ps", *options],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1), (os.POSIX_SPAWN_DUP2, theirs, 2)],
        )
    except OSError:
        os.close(ours)
        raise FailedPrecondition("`ps` is not installed on this host; use --format json") from None
    finally:
        os.close(theirs)
    with os.fdopen(ours, "r", errors="replace") as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise FailedPrecondition(f"exit status {code}: {text}")
    return text
