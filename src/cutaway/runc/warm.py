"""What a process that will fork runtime calls does once, so that no call has to.

The interpreter specializes code, and gives versions to classes and dictionaries, as it runs: what a fork
runs first, it specializes for itself and copies the pages that this changes. A rehearsal beforehand, of
what touches nothing outside the process, leaves the forks less to do and to copy.
"""

from contextlib import suppress

from cutaway.errors import FailedPrecondition
from cutaway.linux import capabilities, seccomp_compile
from cutaway.linux.digest import sha256
from cutaway.oci import document
from cutaway.oci.runtime_spec import Spec
from cutaway.runc import options, state, validate
from cutaway.runc.commands import COMMANDS, GLOBAL, spec
from cutaway.runc.plan import build, step
from cutaway.runc.plan.namespaces import NamespacePlan

_TIMES = 12  # CPython 3.11 looks at a function anew after 8 calls


def prepare() -> None:
    """Load what is loaded late, and rehearse a create."""
    sha256(b"")
    with suppress(FailedPrecondition):  # without libseccomp: who needs it is told so
        seccomp_compile.version()
    for _ in range(_TIMES):
        rehearse()


def rehearse() -> None:
    """Do what a create does before it touches anything."""
    text = document.dumps(spec.default())
    for name in ("create", "start", "delete"):
        words = options.parse(
            GLOBAL, ["--root", "/", "--log-format", "json", name, "x"], stop_at_argument=True
        )
        options.parse(COMMANDS[name].options, words.arguments[1:])
    found = document.loads(Spec, text, "config.json")
    assert found.process is not None
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
