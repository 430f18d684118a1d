"""`create`, up to the point where the container waits for `start`: what is drawn up is made, or undone."""

import os

from cutaway.errors import AlreadyExists, CutawayError
from cutaway.runc import ahead, cgroup_setup, config, console, draft, state
from cutaway.runc.process import parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.oci.runtime_spec import Process
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed
    from cutaway.runc.plan import step
    from cutaway.runc.process.parent import Making
    from cutaway.runc.terminal_relay import Relay


def create(context: "Context", options: "Parsed", *, detach: bool, relay: "Relay | None" = None) -> "Making":
    """Make the container that the options name, up to its init waiting for `start`.

    `relay` takes the terminal of a foreground `run`, or gives it pipes. Raises the classes of
    `cutaway.errors`; then nothing is left.
    """
    pid_file = os.path.abspath(options.text("pid-file")) if options.text("pid-file") else ""
    bundle = config.enter_bundle(options.text("bundle"))
    text = config.read()
    console_socket = -1
    drawn = ahead.kept(context, text)
    try:
        if drawn is None:
            making = draft.look(context, options, bundle, text, detach=detach)
            console_socket = _open_console(options, making.process, relay)
            drawn = draft.plan(context, options, making, text, pid_file, console_socket, relay)
        cgroup_setup.check_unused(context, drawn.manager)
        drawn.start_init.prepare()
        drawn.init.trace = context.tracing
        context.explain("parent", drawn.steps)
        context.explain("init", (*drawn.init.plan.before, *drawn.init.plan.after))
        make(context, drawn.steps, drawn.making)
    finally:
        if console_socket >= 0:
            os.close(console_socket)
    return drawn.making


def _open_console(options: "Parsed", process: "Process", relay: "Relay | None") -> int:
    """Where the terminal goes; -1 without one."""
    if options.text("console-socket"):
        return console.connect(options.text("console-socket"))
    if relay is not None and process.terminal:
        return relay.open_socket(process)
    return -1


def _run_poststop(context: "Context", making: "Making") -> None:
    """A container that came to be and is undone again has stopped (runtime.md, lifecycle steps 3 to 13)."""
    wanted = making.container.record.hooks.poststop
    if wanted and making.reserved:
        from cutaway.runc import hooks

        for failure in hooks.run_all("poststop", wanted, making.container.oci_state(state.STOPPED)):
            context.log.warning(failure)


def make(context: "Context", steps: "list[step.Step]", making: "Making") -> None:
    timings: list[step.Timing] | None = [] if context.tracing else None
    try:
        parent.make(steps, timings)
    except AlreadyExists:
        raise
    except CutawayError as error:
        _run_poststop(context, making)
        raise type(error)(f"unable to start container process: {error}") from error
    finally:
        making.lock.release()
        context.record([*(timings or []), *making.timings])
    for warning in making.warnings:
        context.log.debug(warning)  # runc goes on silently, and callers show what is on stderr
