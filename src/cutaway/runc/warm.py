"""What a process that will fork runtime calls does once, so that no call has to.

The interpreter specializes code, and gives versions to classes and dictionaries, as it runs: what a fork
runs first, it specializes for itself and copies the pages that this changes. A rehearsal beforehand, of
what touches nothing outside the process, leaves the forks less to do and to copy.
"""

from contextlib import suppress

from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.linux import capabilities, seccomp_compile
from cutaway.linux.cgroups import devices
from cutaway.linux.digest import sha256
from cutaway.oci import document
from cutaway.oci.runtime_spec import Process, Root, Spec
from cutaway.runc import draft, options, state, validate
from cutaway.runc.commands import COMMANDS, GLOBAL, spec
from cutaway.runc.context import Context
from cutaway.runc.logs import Log
from cutaway.runc.plan import build, step
from cutaway.runc.plan.namespaces import NamespacePlan
from cutaway.runc.process import channel, parent

_ID = "cutaway-rehearsal"  # of no container


def load() -> None:
    """Load what is loaded late."""
    sha256(b"")
    capabilities.last_cap()
    with suppress(FailedPrecondition):  # without libseccomp: who needs it is told so
        seccomp_compile.version()


def rehearse() -> None:
    """Do what a create does, as far as that leaves nothing."""
    rehearse_look()
    with suppress(CutawayError, OSError):  # a machine where nothing can be created: who tries is told so
        rehearse_steps()


def rehearse_look() -> None:
    """Do what a create does before it looks at the machine."""
    text = document.dumps(spec.default())
    for name in ("create", "start", "delete", "exec"):
        words = options.parse(
            GLOBAL, ["--root", "/", "--log-format", "json", name, "x"], stop_at_argument=True
        )
        options.parse(COMMANDS[name].options, words.arguments[1:])
    found = document.loads(Spec, text, "config.json")
    assert found.process is not None
    document.loads(Process, document.dumps(found.process), "process")
    validate.process(found.process)
    record = state.Record(oci_version="1", id="x", bundle="/", rootfs="/", created="")
    container = state.Container("/", record)
    document.loads(state.Record, document.dumps(record), "state.json")
    sets = capabilities.resolve(found.process.capabilities, len(capabilities.NAMES) - 1)
    around = build.Surroundings("x", "/", container.oci_state(state.CREATING), sets)
    plan = build.init_plan(found, NamespacePlan(found.linux), around)
    for steps in (plan.before, plan.after):
        step.prepare(steps)
        for each in steps:
            each.describe()
    resources = found.linux.resources if found.linux else None
    devices.changes("a *:* rwm\n", resources.devices if resources else None)


def rehearse_steps() -> None:
    """Plan a container as `create` does, and let go of what that has opened. Nothing of it is executed.

    Raises what planning raises.
    """
    found = document.loads(Spec, document.dumps(spec.default()), "config.json")
    found.root = Root(path="/proc")  # any directory but the root
    rootfs = validate.spec(found, "/")
    assert found.process is not None
    context = Context("/", Log())
    words = options.parse(COMMANDS["create"].options, [_ID])
    container = draft.container(context, _ID, found, "/", rootfs)
    making = parent.Making(container, found, found.process)
    drawn = draft.plan(context, words, making, "", "")
    _converse(drawn.ours, drawn.init.end)
    drawn.close()


def _converse(ours: channel.Channel, theirs: channel.Channel) -> None:
    ours.say("go")
    theirs.hear("go")
    theirs.say("ready", warnings=[], timings=[])
    ours.hear("ready")
