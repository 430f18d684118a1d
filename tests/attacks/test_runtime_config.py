"""Hostile configurations: planned or refused in one line that says where, never a traceback or a leftover."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks import hostile
from cutaway.errors import CutawayError, InvalidArgument
from cutaway.oci import runtime_spec
from cutaway.oci.document import Document, loads
from cutaway.oci.runtime_spec import Spec
from cutaway.runc import cgroup_setup, config, draft, logs, number_ranges, validate
from cutaway.runc.context import Context
from cutaway.runc.plan import build
from cutaway.runc.plan.namespaces import NamespacePlan
from cutaway.runc.process import parent, sealed
from runc.bundles import Bundle, Runtime, cgroups_named
from support.leftovers import temporary_base

RELAXED = list(HealthCheck)
# How many times as many examples as usual.
THOROUGH = int(os.environ.get("CUTAWAY_THOROUGH", "1"))
Changes = list[tuple[hostile.Place, Any]]


@pytest.fixture(scope="module")
def here() -> Iterator[Path]:
    """A bundle's directory, for planning."""
    with temporary_base() as base, chdir(base), pytest.MonkeyPatch.context() as patch:
        patch.setattr(draft, "SECCOMP_CACHE", os.fspath(base / "seccomp"))
        yield base


def plan(here: Path, found: Any) -> None:
    """All that a create does before it touches anything."""
    (here / "config.json").write_text(json.dumps(found))
    log = logs.Log()
    log.configure("/dev/null", logs.TEXT, debug=False)
    try:
        _plan(Context("/nonexistent", log))
    finally:
        log.close()


def _plan(context: Context) -> None:
    spec, _ = config.load()
    bundle = os.getcwd()
    rootfs = validate.spec(spec, bundle)
    assert all(validate.warnings(spec))
    assert spec.process is not None
    assert spec.linux is not None
    container = draft.container(context, "planned", spec, bundle, rootfs)
    manager = cgroup_setup.choose(context, spec, container)
    around = draft._look_around(context, parent.Making(container, spec, spec.process), manager)
    namespaces = NamespacePlan(spec.linux)
    around.way = sealed.prepare(
        spec.process, around.sets, spec.linux.seccomp, around.seccomp, own_users=namespaces.has("user")
    )
    around.way.close()
    made = build.init_plan(spec, namespaces, around)
    for step in (*made.before, *made.after, *made.start_hooks):
        assert step.describe()
        assert step.command()
        assert step.failure("reason")


def test_the_whole_of_the_specification_is_in_reach() -> None:
    """Each field of each class, so that one that is added is attacked too."""
    reached = {place[-1] for place in hostile.PLACES}
    classes = [each for each in vars(runtime_spec).values() if isinstance(each, type)]
    documents = {each for each in classes if issubclass(each, Document)}
    documents -= {Document, runtime_spec.State, runtime_spec.ContainerProcessState}
    assert {key for cls in documents for key, _, _ in cls._fields.values()} <= reached


@pytest.mark.root
def test_the_configuration_to_start_from_is_valid(here: Path) -> None:
    plan(here, hostile.valid())


@pytest.mark.parametrize("section", hostile.FULL)
def test_a_value_of_a_wrong_type_is_named(section: str) -> None:
    for place in hostile.PLACES:
        if place[0] != section:
            continue
        for junk in hostile.WRONG_TYPES[type(hostile.at(hostile.FULL, place))]:
            wanted = json.loads(json.dumps(hostile.FULL))
            hostile.put(wanted, place, junk)
            with pytest.raises(InvalidArgument) as caught:
                loads(Spec, json.dumps(wanted), "config.json")
            assert str(caught.value).startswith(f"config.json:{hostile.name(place)}"), junk
            assert "\n" not in str(caught.value)


@pytest.mark.root
@settings(max_examples=500 * THOROUGH, suppress_health_check=RELAXED, deadline=None)
@given(changes=hostile.CHANGES)
def test_nonsense_is_planned_or_refused(here: Path, changes: Changes) -> None:
    wanted = hostile.valid()
    for place, junk in changes:
        hostile.put(wanted, place, junk)
    try:
        plan(here, wanted)
    except CutawayError as error:
        assert str(error)


@pytest.mark.root
@pytest.mark.parametrize("text", ["\0", "before\0after", "\ud800"])
def test_a_text_that_no_program_can_take_is_named_wherever_it_is(here: Path, text: str) -> None:
    for place in hostile.PLACES:
        if place[0] == "annotations" or not isinstance(hostile.at(hostile.FULL, place), str):
            continue
        wanted = json.loads(json.dumps(hostile.FULL))
        hostile.put(wanted, place, text)
        with pytest.raises(InvalidArgument, match=r"zero byte|encoded") as caught:
            plan(here, wanted)
        assert str(caught.value).startswith(f"config.json:{hostile.name(place)}: ")


@pytest.mark.root
def test_numbers_out_of_range_are_named(here: Path) -> None:
    attacked = set()
    for place, cls, attribute in hostile.fields(Spec, hostile.FULL):
        if attribute not in number_ranges.RANGES.get(cls, {}):
            continue
        attacked.add(cls)
        low, above = number_ranges.RANGES[cls][attribute]
        for value in (low - 1, above):
            if -(1 << 63) <= value < 1 << 64:  # else it is no number of JSON's to begin with
                wanted = hostile.valid()
                hostile.put(wanted, place, value)
                with pytest.raises(InvalidArgument) as caught:
                    plan(here, wanted)
                assert str(caught.value).startswith(f"{hostile.name(place)}: ")
    assert attacked == set(number_ranges.RANGES)


@given(st.binary(max_size=200))
def test_junk_for_a_whole_configuration_is_refused(text: bytes) -> None:
    with pytest.raises(CutawayError):
        loads(Spec, text, "config.json")


@pytest.mark.root
@settings(max_examples=30 * THOROUGH, suppress_health_check=RELAXED, deadline=None)
@given(changes=hostile.CHANGES)
def test_nonsense_leaves_nothing_on_the_machine(
    ours: Runtime, bundle: Bundle, name: str, changes: Changes
) -> None:
    wanted = json.loads(json.dumps(bundle.config))
    for place, junk in changes:
        hostile.put(wanted, place, junk)
    (bundle.path / "config.json").write_text(json.dumps(wanted))
    result = ours.detached("create", "--bundle", os.fspath(bundle.path), name)
    if result.code == 0:
        assert ours("delete", "--force", name).code == 0
    else:
        assert result.code == 1
        assert result.err.count("level=error") == 1
        assert "Traceback" not in result.err
        assert "internal error" not in result.err
    assert not os.listdir(ours.root)
    assert not cgroups_named(name)
    assert not processes_of(ours)
    assert os.fspath(bundle.path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.root
def test_a_hook_with_all_the_time_there_is(ours: Runtime, bundle: Bundle, name: str) -> None:
    hook = {"path": "/bin/true", "timeout": (1 << 63) - 1}
    bundle.config["hooks"] = {"createRuntime": [hook], "poststop": [hook]}
    result = ours("run", "--bundle", bundle, name)
    assert (result.code, result.err) == (0, "")


@pytest.mark.root
@pytest.mark.parametrize(
    ("field", "value"), [("args", [""]), ("args", ["", "x"]), ("env", ["A=1", "=x"]), ("env", [""])]
)
def test_a_hook_that_cannot_be_started(here: Path, field: str, value: list[str]) -> None:
    wanted = hostile.valid()
    wanted["hooks"]["poststop"][0][field] = value
    with pytest.raises(InvalidArgument, match=rf"^hooks\.poststop\[0\]\.{field}\[\d\]: "):
        plan(here, wanted)


@pytest.mark.root
@pytest.mark.parametrize("size", ["", "MB", "²MB", "2", "2mb", "-2MB", "2MB/../x", "2MB\n"])
def test_a_page_size_that_is_none(here: Path, size: str) -> None:
    wanted = hostile.valid()
    wanted["linux"]["resources"]["hugepageLimits"][0]["pageSize"] = size
    with pytest.raises(InvalidArgument, match=r"^linux\.resources\.hugepageLimits\[0\]\.pageSize: "):
        plan(here, wanted)


@pytest.mark.root
def test_a_mode_that_no_file_has(here: Path) -> None:
    wanted = hostile.valid()
    for mode in (1 << 16, 1 << 32):
        wanted["linux"]["devices"][0]["fileMode"] = mode
        with pytest.raises(InvalidArgument, match=r"^linux\.devices\[0\]\.fileMode: "):
            plan(here, wanted)


def processes_of(runtime: Runtime) -> list[str]:
    """Processes of the runtime that are left, its forks too: by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(runtime.root) in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue  # it has ended
    return found
