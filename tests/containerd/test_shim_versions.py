"""Shims of containerd 2 below our daemon: what their start prints, and the version they are spoken to in."""

from __future__ import annotations

import pytest

from containerd.task_rig import assert_nothing_left, beside, script
from cutaway.containerd.tasks import endpoint
from cutaway.errors import Unknown
from support.peers import VENV_BIN
from support.stack import OurContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_a_shim_of_version_3_is_spoken_to_as_such_and_found_again() -> None:
    with beside(OurContainerd) as on:
        shim = f'MAX_SHIM_VERSION=3 exec {VENV_BIN}/containerd-shim-cutaway-v1 "$@"'
        pid = on.running("newer", runtime=str(script(on, "newer-shim", shim)))
        assert '"version": 3' in (on.bundle("newer") / "bootstrap.json").read_text()
        on.daemon.crash()
        on.daemon.start()
        assert on.tasks("Get", container_id="newer").process.pid == pid
        assert on.end("newer") == 137
        assert_nothing_left(on, "newer")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not the address of a socket"),
        ("tcp://1.2.3.4", "is not the address of a socket"),
        ("unix:///a\nmore", "is not the address of a socket"),
        ("{", "is not the address of a socket"),
        ("{}", "is not the address of a socket"),
        ('{"version": 3, "address": 7, "protocol": "ttrpc"}', "is not the address of a socket"),
        ('{"version": 3, "address": "unix:///a", "protocol": "grpc"}', "only ttrpc is"),
        ('{"version": 4, "address": "unix:///a", "protocol": "ttrpc"}', "unsupported shim version (4)"),
        ('{"version": null, "address": "unix:///a", "protocol": "ttrpc"}', "unsupported shim version"),
    ],
)
def test_what_is_no_endpoint(text: str, said: str) -> None:
    with pytest.raises(Unknown) as caught:
        endpoint.parse(text)
    assert said in caught.value.message
