"""Shims of containerd 2 below our daemon: what their start prints, and the version they are spoken to in."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from containerd.task_rig import assert_nothing_left, beside, script
from cutaway.containerd.tasks import endpoint
from cutaway.errors import Unknown
from cutaway.pb import runc_options_pb2
from cutaway.pb.bootstrap_pb2 import BootstrapResult
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


def test_a_shim_of_containerd_2_3_is_started_by_its_own_protocol() -> None:
    """It names its version, takes BootstrapParams, and answers with BootstrapResult."""
    with beside(OurContainerd) as on:
        log = on.daemon.folder / "asked"
        shim = (
            f'echo "$*" >> {log}\n'
            '[ "$1" != -v ] || { printf "shim:\\n  Version:  v2.3.4\\n"; exit; }\n'
            f'exec {VENV_BIN}/containerd-shim-cutaway-v1 "$@"'
        )
        options = AnyMessage()
        options.Pack(runc_options_pb2.Options(binary_name="runc"))
        options.type_url = runc_options_pb2.Options.DESCRIPTOR.full_name
        runtime = str(script(on, "bootstrap-shim", shim))
        for name in ("first", "second"):
            on.running(name, runtime=runtime, options=options)
            assert '"version": 3' in (on.bundle(name) / "bootstrap.json").read_text()
        assert log.read_text().splitlines().count("-v") == 1, "it is asked once"
        on.daemon.crash()
        on.daemon.start()
        for name in ("first", "second"):
            assert on.end(name) == 137
            assert_nothing_left(on, name)


def test_a_shim_that_does_not_name_its_version_gets_the_older_protocol() -> None:
    with beside(OurContainerd) as on:
        shim = f'[ "$1" != -v ] || exec sleep 1000\nexec {VENV_BIN}/containerd-shim-cutaway-v1 "$@"'
        on.running("old", runtime=str(script(on, "silent-shim", shim)))
        assert not (on.bundle("old") / "bootstrap.json").exists()
        assert on.end("old") == 137


@pytest.mark.parametrize(
    ("version", "address", "protocol", "said"),
    [
        (3, "tcp://1.2.3.4", "ttrpc", "is not the address of a socket"),
        (3, "unix:///a", "grpc", "only ttrpc is"),
        (4, "unix:///a", "ttrpc", "unsupported shim version (4)"),
    ],
)
def test_what_is_no_endpoint_in_a_message(version: int, address: str, protocol: str, said: str) -> None:
    result = BootstrapResult(version=version, address=address, protocol=protocol)
    with pytest.raises(Unknown) as caught:
        endpoint.parse(result.SerializeToString())
    assert said in caught.value.message
    with pytest.raises(Unknown):
        endpoint.parse(result.SerializeToString()[:-1])


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
