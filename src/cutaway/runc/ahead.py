"""A create or an exec that is drawn up before it is asked for.

A shim knows which create will come, and its configuration lies in the bundle already; an exec is described
before it is started. A child of the shim waits for the call (`shim.spare`), and what this child draws up
meanwhile, the call need not. A draft counts for the very command line that was expected, and while the files
that it was made from say the same. Nobody hears of one that did not succeed: the call finds that out by
itself, and its caller is there to be told.
"""

import os

from cutaway.runc import config, draft
from cutaway.runc.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Linux
    from cutaway.runc.context import Context
    from cutaway.runc.draft import Draft
    from cutaway.runc.execution import Exec
    from cutaway.runc.options import Parsed

# Never taken back: to free what a process has that is about to end costs a copy of each page it lies in.
_drafts: "list[tuple[list[str], Draft]]" = []
_execs: "list[tuple[list[str], Exec]]" = []


class Surprise(Exception):
    """Why a create has to wait for its call."""


class Silent(Log):
    """The log of a draft: its caller is not there yet."""

    def warning(self, message: str) -> None:
        raise Surprise(message)


def draw(context: "Context", options: "Parsed") -> None:
    """Draw up this create, and keep it. Raises `Surprise`, and what drawing raises."""
    _check_caller(options)
    if context.systemd_cgroup or os.environ.get("NOTIFY_SOCKET"):
        raise Surprise("it needs more than this process")
    pid_file = options.text("pid-file")
    bundle = config.enter_bundle(options.text("bundle"))
    text = config.read()
    making = draft.look(context, options, bundle, text, detach=True)
    if _may_change(making.spec.linux):
        raise Surprise("its namespaces may change")
    drawn = draft.plan(context, options, making, text, pid_file)
    drawn.start_init.enter.make()
    _drafts.append((list(context.words), drawn))


def draw_exec(context: "Context", options: "Parsed") -> None:
    """Draw up this exec, and keep it. Raises as `draw`."""
    from cutaway.runc import execution

    _check_caller(options)
    if not options.flag("detach"):
        raise Surprise("its caller's streams are not here")
    _execs.append((list(context.words), execution.draw(context, options)))


def _check_caller(options: "Parsed") -> None:
    pid_file = options.text("pid-file")
    if os.geteuid() or (pid_file and not os.path.isabs(pid_file)):
        raise Surprise("its caller may be another, and elsewhere")


def _may_change(linux: "Linux | None") -> bool:
    """Whether a plan depends on a namespace that somebody else has."""
    kinds = {each.type: each.path for each in linux.namespaces} if linux is not None else {}
    return bool(kinds.get("user")) or "mount" not in kinds


def kept(context: "Context", text: str) -> "Draft | None":
    """The draft for this call and this configuration, if there is one; it is given out once."""
    for words, drawn in _drafts:
        if words == context.words and drawn.text == text and not drawn.making.reserved:
            drawn.making.container.record.created = draft.now()
            return drawn
    return None


def kept_exec(context: "Context") -> "Exec | None":
    """The draft for this call, if there is one, once. Whether it still holds is to be seen."""
    return next((drawn for words, drawn in _execs if words == context.words and not drawn.making.pid), None)
