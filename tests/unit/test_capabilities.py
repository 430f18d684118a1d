"""Names and masks of capabilities; what a set of them does to a process is in tests/runc/test_seccomp.py."""

from __future__ import annotations

import pytest

from cutaway.engine.spec import capabilities as granted
from cutaway.engine.spec.inputs import Host
from cutaway.errors import InvalidArgument
from cutaway.linux import capabilities
from cutaway.oci.runtime_spec import Capabilities

CHOWN, NET_RAW, CHECKPOINT = 0, 13, 40


def test_names_and_masks_are_inverse() -> None:
    for number, name in enumerate(capabilities.NAMES):
        assert capabilities.mask([name]) == 1 << number
        assert capabilities.names(1 << number) == [name]


def test_docker_default_mask_is_the_well_known_one() -> None:
    assert capabilities.mask(granted.DEFAULT) == 0xA80425FB


def test_no_capabilities_at_all_means_none() -> None:
    sets = capabilities.resolve(None, last=CHECKPOINT)
    assert (sets.bounding, sets.effective, sets.permitted, sets.ambient) == (0, 0, 0, 0)


def test_unknown_names_are_passed_over_and_named() -> None:
    caps = Capabilities(bounding=["CAP_CHOWN", "CAP_FLY", "CAP_CHECKPOINT_RESTORE"], effective=["CAP_FLY"])
    sets = capabilities.resolve(caps, last=CHECKPOINT - 1)
    assert sets.bounding == 1 << CHOWN
    assert sets.effective == 0
    assert sets.ignored == ("CAP_CHECKPOINT_RESTORE", "CAP_FLY")


def test_an_added_capability_is_never_inheritable() -> None:
    caps = Capabilities(bounding=["CAP_CHOWN"], inheritable=["CAP_KILL"])
    capabilities.add(caps, ["CAP_NET_RAW", "CAP_CHOWN"])
    assert caps.bounding == ["CAP_CHOWN", "CAP_NET_RAW"]
    assert caps.effective == caps.permitted == ["CAP_NET_RAW", "CAP_CHOWN"]
    assert caps.inheritable == ["CAP_KILL"]
    assert caps.ambient is None


def test_an_added_capability_is_ambient_where_it_is_inheritable_already() -> None:
    caps = Capabilities(inheritable=["CAP_KILL"])
    capabilities.add(caps, ["CAP_KILL"])
    assert caps.ambient == ["CAP_KILL"]


LACKING_RESOURCE = Host(capabilities=frozenset(granted.ALL) - {"CAP_SYS_RESOURCE"})


def test_privileged_is_everything_that_the_engine_has() -> None:
    found = granted.effective((), (), True, LACKING_RESOURCE)
    assert "CAP_SYS_ADMIN" in found
    assert "CAP_SYS_RESOURCE" not in found


@pytest.mark.parametrize("name", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin"])
def test_docker_spellings_of_one_capability(name: str) -> None:
    assert granted.effective((name,), (), False, LACKING_RESOURCE)[-1] == "CAP_NET_ADMIN"


def test_drop_then_add() -> None:
    assert granted.effective(("CHOWN",), ("ALL",), False, LACKING_RESOURCE) == ["CAP_CHOWN"]
    everything_but = granted.effective(("ALL",), ("CHOWN",), False, LACKING_RESOURCE)
    assert "CAP_CHOWN" not in everything_but
    assert "CAP_BPF" in everything_but
    assert "CAP_SYS_RESOURCE" not in everything_but


def test_what_cannot_be_had_is_refused_in_docker_words() -> None:
    with pytest.raises(InvalidArgument, match='unknown capability: "CAP_FLY"'):
        granted.effective(("fly",), (), False, LACKING_RESOURCE)
    with pytest.raises(InvalidArgument, match="not supported by your kernel or not available"):
        granted.effective(("SYS_RESOURCE",), (), False, LACKING_RESOURCE)
    assert granted.effective((), ("SYS_RESOURCE",), False, LACKING_RESOURCE) == list(granted.DEFAULT)
