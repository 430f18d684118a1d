"""The engine's pure parts: errors, names, settings, times, signals, states, defaults, filters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from cutaway import errors
from cutaway.engine import hostinfo, names, peers, settings, signals, timestamps
from cutaway.engine.api import errors as api_errors
from cutaway.engine.api import version
from cutaway.engine.api.container_views import command_line
from cutaway.engine.api.events import matches
from cutaway.engine.api.top import select
from cutaway.engine.containers import binds, defaults, failures
from cutaway.engine.containers.config import Config, CreateRequest, HostConfig, RestartPolicy
from cutaway.engine.containers.files import host_resolv_conf, resolv_conf
from cutaway.engine.containers.model import State, Status
from cutaway.engine.daemon import image_settings
from cutaway.engine.documents import wire
from cutaway.engine.events import Event
from cutaway.engine.listeners import socket_path
from cutaway.engine.spec.inputs import Host
from cutaway.oci.document import decode
from cutaway.oci.image_spec import ContainerConfig


def test_every_error_class_has_a_status() -> None:
    for kind in errors.all_classes():
        assert kind in api_errors.STATUS
        answer = api_errors.from_exception(kind("why"))
        assert answer.status == api_errors.STATUS[kind]
        assert answer.body == b'{"message":"why"}\n'


def test_a_bug_is_told_as_one() -> None:
    answer = api_errors.from_exception(KeyError("x"))
    assert answer.status == 500
    assert b"internal error: KeyError" in (answer.body or b"")  # type: ignore[operator]


def test_generated_names() -> None:
    made = {names.generate() for _ in range(200)}
    assert all(re.fullmatch("[a-z]+_[a-z]+", name) for name in made)
    assert len(made) > 100
    assert re.fullmatch(r"[a-z]+_[a-z]+\d", names.generate(attempt=1))
    assert len(set(names.ADJECTIVES)) == len(names.ADJECTIVES)
    assert len(set(names.SURNAMES)) == len(names.SURNAMES)


@given(st.integers(min_value=1, max_value=4_000_000_000_000_000_000))
def test_times_come_back_as_they_went(ns: int) -> None:
    assert timestamps.parse(timestamps.rfc3339(ns), "time") == ns
    assert timestamps.parse(timestamps.fixed_rfc3339(ns), "time") == ns


def test_times_as_docker_writes_them() -> None:
    assert timestamps.rfc3339(0) == "0001-01-01T00:00:00Z"
    assert timestamps.rfc3339(1_500_000_000_120_000_000) == "2017-07-14T02:40:00.12Z"
    assert timestamps.parse("1500000000.5", "since") == 1_500_000_000_500_000_000
    assert timestamps.parse("2017-07-14T04:40:00+02:00", "since") == 1_500_000_000_000_000_000
    assert timestamps.parse("2017-07-14", "since") == 1_499_990_400_000_000_000
    assert timestamps.parse("", "since") == 0


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        assert timestamps.parse(text, "since") >= 0 or "-" in text or text.startswith("0")
    except errors.InvalidArgument as error:
        assert "since" in error.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (180, "3 minutes"), (3600, "About an hour"), (7200, "2 hours"), (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"), (90 * 86400, "3 months"), (800 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_spans_of_time_in_words(seconds: int, text: str) -> None:
    assert timestamps.human_duration(seconds) == text


def test_signals() -> None:
    assert [signals.parse(text) for text in ("KILL", "sigterm", "9", "RTMIN+3", "RTMAX-1")] == [
        9,
        15,
        9,
        37,
        63,
    ]
    for bad in ("", "0", "65", "SIGFOO", "RTMIN+99", "-1", "9999"):
        with pytest.raises(errors.InvalidArgument, match="Invalid signal"):
            signals.parse(bad)


def test_settings() -> None:
    made = settings.parse(
        ["-H", "unix:///a", "-H", "unix:///b", "--data-root", "/d", "--add-runtime", "x=/usr/bin/crun",
         "--add-runtime", "y=io.containerd.other.v1", "-D"]
    )  # fmt: skip
    assert made.hosts == ("unix:///a", "unix:///b")
    assert made.runtimes["x"].binary == "/usr/bin/crun"
    assert made.runtimes["x"].shim == settings.DEFAULT_SHIM
    assert (made.runtimes["y"].shim, made.runtimes["y"].binary) == ("io.containerd.other.v1", "")
    assert made.log_level == "debug"
    assert settings.parse([]).hosts == ("unix:///run/cutaway/cutaway.sock",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--default-runtime", "nope"], "no such runtime"),
        (["--add-runtime", "nope"], "expected NAME=PATH"),
        (["--bip", "nope"], "--bip nope"),
    ],
)
def test_bad_settings_are_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=words):
        settings.parse(arguments)


def test_hosts() -> None:
    assert socket_path("unix:///run/x.sock") == Path("/run/x.sock")
    assert socket_path("/run/x.sock") == Path("/run/x.sock")
    with pytest.raises(errors.InvalidArgument, match="mutual TLS"):
        socket_path("tcp://0.0.0.0:2375")
    with pytest.raises(errors.Unimplemented, match="socket activation"):
        socket_path("fd://")
    for bad in ("unix://relative", "unix://" + "/x" * 60, "npipe://x"):
        with pytest.raises(errors.CutawayError):
            socket_path(bad)


RUNNING = State().running(5, 10)


def test_the_drawn_transitions_are_allowed() -> None:
    paused = RUNNING.become(Status.PAUSED)
    ended = paused.ended(3, 20, oom_killed=False, restarting=False)
    assert (ended.status, ended.exit_code, ended.pid) == (Status.EXITED, 3, 0)
    assert ended.running(6, 30).status is Status.RUNNING
    again = RUNNING.ended(1, 20, oom_killed=True, restarting=True)
    assert (again.status, again.is_active, again.is_running) == (Status.RESTARTING, True, False)
    assert State().start_failed("no", 127).status is Status.CREATED
    assert again.start_failed("no", 127).status is Status.EXITED


def test_an_end_is_noted_before_it_is_cleaned_up_after() -> None:
    noted = RUNNING.noted(9, 50)
    assert (noted.status, noted.is_noted, RUNNING.is_noted) == (Status.RUNNING, True, False)
    ended = noted.ended(9, 50, oom_killed=False, restarting=False)
    assert not ended.is_noted
    assert not ended.running(7, 60).is_noted


@pytest.mark.parametrize(
    ("state", "target"),
    [
        (State(), Status.PAUSED),
        (State(), Status.EXITED),
        (RUNNING, Status.REMOVING),
        (RUNNING, Status.CREATED),
        (State(Status.REMOVING), Status.RUNNING),
        (State(Status.DEAD), Status.RUNNING),
    ],
)
def test_all_others_are_refused(state: State, target: Status) -> None:
    with pytest.raises(errors.FailedPrecondition, match=f"cannot become {target}"):
        state.become(target)


IMAGE = ContainerConfig(
    entrypoint=["/ep"], cmd=["image"], env=["PATH=/p", "X=image"], user="daemon", labels={"a": "1"},
    working_dir="/w", volumes={"/v": {}},
)  # fmt: skip


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, None, ["/ep", "image"]),
        (None, ["mine"], ["/ep", "mine"]),
        (["/other"], None, ["/other"]),
        (["/other"], ["mine"], ["/other", "mine"]),
        ([""], ["mine"], ["mine"]),
        ("single", "one", ["single", "one"]),
    ],
)
def test_entry_point_and_command_merge_as_docker_s(
    entrypoint: list[str] | str | None, command: list[str] | str | None, expected: list[str]
) -> None:
    config = Config(entrypoint=entrypoint, cmd=command)
    defaults.merge_image(config, IMAGE)
    from cutaway.engine.containers.config import words

    assert words(config.entrypoint) + words(config.cmd) == expected


def test_the_rest_of_the_image_s_settings() -> None:
    config = Config(env=["X=mine"], labels={"b": "2"}, cmd=["x"])
    defaults.merge_image(config, IMAGE)
    assert config.env == ["X=mine", "PATH=/p"]
    assert config.labels == {"a": "1", "b": "2"}
    assert (config.user, config.working_dir, config.volumes) == ("daemon", "/w", {"/v": {}})


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="no command specified"):
        defaults.check_config(Config())


def test_host_config_defaults() -> None:
    host = HostConfig(memory=64 << 20, cap_add=["net_admin", "ALL"], memory_swappiness=-1, pids_limit=0)
    defaults.fill_host_config(host, {"r": settings.Runtime("r", "s")}, "r")
    assert (host.runtime, host.network_mode, host.shm_size) == ("r", "default", 64 << 20)
    assert host.memory_swap == 128 << 20
    assert host.cap_add == ["CAP_NET_ADMIN", "ALL"]
    assert (host.memory_swappiness, host.pids_limit) == (None, None)
    assert "/proc/kcore" in (host.masked_paths or [])


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(memory=1), "6MB"),
        (HostConfig(memory=8 << 20, memory_swap=7 << 20), "larger than memory limit"),
        (HostConfig(memory_swap=7 << 20), "always set the Memory limit"),
        (HostConfig(oom_score_adj=2000), "oom score adj"),
        (HostConfig(restart_policy=RestartPolicy(name="often")), "unknown policy 'often'"),
        (HostConfig(restart_policy=RestartPolicy(name="always", maximum_retry_count=3)), "on-failure"),
        (HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")), "AutoRemove"),
        (HostConfig(userns_mode="keep-id"), "--userns is not supported"),
    ],
)
def test_contradictions_are_refused(host: HostConfig, words: str) -> None:
    with pytest.raises(errors.CutawayError, match=words):
        defaults.check_host_config(host)


def test_documents_have_docker_s_keys() -> None:
    request = decode(CreateRequest, {"Image": "x", "HostConfig": {"UTSMode": "host", "IOMaximumIOps": 5}})
    view = wire(request.host_config)
    assert isinstance(view, dict)
    assert (view["UTSMode"], view["IOMaximumIOps"]) == ("host", 5)
    assert view["Binds"] is None  # there, and null
    assert {"CpusetCpus", "BlkioDeviceReadIOps", "ContainerIDFile", "OomKillDisable"} <= view.keys()


def test_resolv_conf_leaves_out_the_host_s_own_loopback() -> None:
    of_host = "# note\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch a b\noptions edns0\n"
    made = resolv_conf(of_host, [], [], [], keep_local=False)
    assert made == "search a b\nnameserver 9.9.9.9\noptions edns0\n"
    assert "127.0.0.53" in resolv_conf(of_host, [], [], [], keep_local=True)
    assert "8.8.8.8" in resolv_conf("nameserver ::1\n", [], [], [], keep_local=False)
    assert (
        resolv_conf(of_host, ["1.1.1.1"], ["."], [], keep_local=False)
        == "nameserver 1.1.1.1\noptions edns0\n"
    )


def test_failures_of_a_start() -> None:
    cases = {
        'exec: "x": executable file not found in $PATH: unknown': 127,
        "stat /x: no such file or directory": 127,
        'exec: "/etc/passwd": permission denied': 126,
        'exec: "/etc": is a directory': 126,
        "mount: not a directory": 127,
        "something else": 128,
    }
    for text, code in cases.items():
        answer, found = failures.classify(errors.Unknown(text))
        assert found == code
        assert text in answer.message
        assert isinstance(answer, errors.InvalidArgument) == (code != 128)


def test_bind_modes() -> None:
    assert binds._mode("ro,Z,rshared", "x") == (False, "rshared", True)
    assert binds._mode("nocopy", "x") == (True, "", False)
    with pytest.raises(errors.InvalidArgument, match="invalid mode: rubbish"):
        binds._mode("rubbish", "x")


def test_command_lines_are_quoted_for_a_shell() -> None:
    assert command_line(["sh", "-c", "echo hi; true"]) == "sh -c 'echo hi; true'"
    assert command_line(["a=b", "it's", ""]) == "a=b 'it'\\''s' ''"


def test_event_filters() -> None:
    event = Event("container", "exec_start: ls", "abc", {"name": "n", "k": "v"}, 1)
    assert matches(event, {})
    assert matches(event, {"type": ["image", "container"], "event": ["exec_start"], "container": ["n"]})
    assert matches(event, {"label": ["k=v"], "container": ["ab"]})
    assert not matches(event, {"label": ["k=v", "other"]})
    assert not matches(event, {"image": ["n"]})
    assert not matches(event, {"event": ["exec"]})


def test_ps_output_is_cut_down_to_the_container() -> None:
    output = "UID   PID CMD\nroot  1 init\nroot 22 sleep 5 and more\n"
    assert select(output, frozenset({22})) == (["UID", "PID", "CMD"], [["root", "22", "sleep 5 and more"]])
    with pytest.raises(errors.InvalidArgument, match="PID field"):
        select("CMD\nx\n", frozenset({1}))


def test_versions_of_runtimes() -> None:
    assert peers.parse("runc version 1.1.5+ds1\ncommit: abc-1\nspec: 1.0.2\n") == ("1.1.5+ds1", "abc-1")
    assert peers.parse("nonsense") == ("", "")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (HostConfig(cap_add=["FLY"]), 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        (HostConfig(cap_add="cap_fly"), 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        (HostConfig(cap_drop=["ALL", "swim"]), 'invalid CapDrop: unknown capability: "CAP_SWIM"'),
    ],
)
def test_capabilities_are_checked_at_create(wanted: HostConfig, words: str) -> None:
    with pytest.raises(errors.InvalidArgument) as failure:
        defaults.check_host_config(wanted)
    assert failure.value.message == words


def test_a_capability_that_the_engine_lacks_cannot_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostinfo, "host", lambda: Host(capabilities=frozenset({"CAP_KILL"})))
    defaults.check_host_config(HostConfig(cap_add=["kill", "ALL"]))
    with pytest.raises(errors.InvalidArgument, match="invalid CapAdd: capability not supported"):
        defaults.check_host_config(HostConfig(cap_add=["SYS_ADMIN"]))


def test_the_file_behind_systemd_resolved_is_followed(tmp_path: Path) -> None:
    stub, behind = tmp_path / "stub", tmp_path / "behind"
    stub.write_text("# managed\nnameserver 127.0.0.53\noptions edns0\n")
    behind.write_text("nameserver 192.0.2.1\nsearch lan\n")
    follow = host_resolv_conf(str(stub), str(behind), follow_stub=True)
    assert resolv_conf(follow, [], [], [], keep_local=False) == "search lan\nnameserver 192.0.2.1\n"
    assert "127.0.0.53" in host_resolv_conf(str(stub), str(behind), follow_stub=False)
    behind.unlink()
    assert "127.0.0.53" in host_resolv_conf(str(stub), str(behind), follow_stub=True)
    stub.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.9\n")
    assert "192.0.2.9" in host_resolv_conf(str(stub), str(behind), follow_stub=True)


def test_the_built_in_registry_is_told_where_spans_go() -> None:
    made = settings.parse(["--exec-root", "/run/x"])
    embedded = image_settings(made).embedded
    assert embedded is not None and embedded.otlp_endpoint == f"unix://{made.collector_socket}"


@pytest.mark.parametrize(
    ("path", "number"), [("/v1.24/_ping", (1, 24)), ("/_ping", (1, 47)), ("/v1.47/_ping", (1, 47))]
)
def test_the_version_of_a_request(path: str, number: tuple[int, int]) -> None:
    found = {"version": path.split("/")[1][1:]} if path.startswith("/v") else {}
    request = make_mocked_request("GET", path, match_info=found)
    version.check(request)
    assert version.of(request) == number
