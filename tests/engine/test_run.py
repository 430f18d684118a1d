"""`docker run` and its relatives: the real CLI on the engine, on real parts below."""

from __future__ import annotations

import json
import re

import pytest

from engine.engine_stack import NAMESPACE, Stack, stack
from support.images import busybox_image
from support.peers import need
from support.stack import Containerd, OurContainerd, RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.peers]


def test_output_streams_and_exit_code(engine_stack: Stack) -> None:
    done = engine_stack.engine.docker(
        "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert engine_stack.ask("GET", "/containers/json?all=1") == (200, [])


def test_a_signal_is_128_and_its_number(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "shot", "busybox", "sleep", "100")
    engine_stack.docker("kill", "shot")
    assert engine_stack.docker("wait", "shot") == "137\n"


def test_all_of_a_large_output_arrives(engine_stack: Stack) -> None:
    """More than any pipe or buffer on the way holds, written by a process that ends at once."""
    script = "dd if=/dev/zero bs=65536 count=160 2>/dev/null | tr '\\0' x"
    done = engine_stack.engine.docker("run", "--rm", "busybox", "sh", "-c", script)
    assert len(done.stdout) == 160 * 65536
    assert set(done.stdout) == {"x"}


def test_stdin_reaches_the_process_and_ends(engine_stack: Stack) -> None:
    assert engine_stack.docker("run", "--rm", "-i", "busybox", "cat", input="a\nb\n") == "a\nb\n"
    assert engine_stack.docker("run", "--rm", "-i", "busybox", "wc", "-c", input="") == "0\n"


def test_large_stdin_comes_back_whole(engine_stack: Stack) -> None:
    text = "0123456789abcdef" * 65536
    assert engine_stack.docker("run", "--rm", "-i", "busybox", "cat", input=text) == text


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("nosuchcommand", 127, "executable file not found in $PATH"),
        ("/no/such/file", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
    ],
)
def test_a_command_that_cannot_run(engine_stack: Stack, command: str, code: int, words: str) -> None:
    assert engine_stack.fails("run", "--rm", "busybox", command)[0] == code
    found, message = engine_stack.fails("run", "--name", "bad", "busybox", command)
    assert found == code
    assert words in message
    state = engine_stack.inspect("bad")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", code)
    assert words in state["Error"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--cap-add=FLY", 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        ("--cap-drop=FLY", 'invalid CapDrop: unknown capability: "CAP_FLY"'),
    ],
)
def test_an_unknown_capability_is_refused_at_create(engine_stack: Stack, flag: str, words: str) -> None:
    code, message = engine_stack.fails("create", flag, "busybox")
    assert (code, message) == (1, f"Error response from daemon: {words}\n")
    assert engine_stack.ask("GET", "/containers/json?all=1") == (200, [])


def test_root_has_the_groups_that_the_image_gives_it(engine_stack: Stack) -> None:
    """As dockerd: by the group file for a user, none besides the one asked for with USER:GROUP."""
    script = "sed -i 's/^staff:.*/staff:x:50:daemon,root/' /etc/group"
    for user, groups in (("", "0 50"), ("root", "0 50"), ("0", "0 50"), ("0:0", "0")):
        engine_stack.docker("run", "-d", "--name", "box", "-u", user, "busybox", "sleep", "100")
        engine_stack.docker("exec", "box", "sh", "-c", script)
        engine_stack.docker("restart", "-t", "0", "box")
        assert engine_stack.docker("exec", "box", "id", "-G") == f"{groups}\n"
        engine_stack.docker("rm", "-f", "box")


def test_masked_paths_are_those_that_inspect_shows(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    host = engine_stack.inspect("box")["HostConfig"]
    table = engine_stack.docker("exec", "box", "cat", "/proc/mounts")
    points = {line.split()[1] for line in table.splitlines()}
    for path in host["MaskedPaths"] + host["ReadonlyPaths"]:
        there = engine_stack.engine.docker("exec", "box", "test", "-e", path, check=False).returncode == 0
        assert not there or path in points, path
    assert "/proc/sys" in points and points & set(host["MaskedPaths"])


@pytest.mark.parametrize("below", [RealContainerd, OurContainerd])
def test_an_image_that_others_brought_is_unpacked_at_its_first_use(below: type[Containerd]) -> None:
    need("root", "docker", "containerd", "containerd-shim-runc-v2", "runc", "busybox", "ctr")
    with stack(below=below) as made:
        archive = made.containerd.folder / "packed.tar"
        made.ask("DELETE", "/images/busybox")
        archive.write_bytes(busybox_image().oci_archive("docker.io/library/packed:latest"))
        words = ("images", "import", "--no-unpack", "--base-name", "docker.io/library/packed", str(archive))
        made.containerd.ctr(*words, namespace=NAMESPACE)
        assert "sha256" not in made.containerd.ctr("snapshots", "ls", namespace=NAMESPACE).stdout
        for _ in range(2):
            assert made.docker("run", "--rm", "packed", "echo", "works") == "works\n"


def test_detached_then_waited_for(engine_stack: Stack) -> None:
    container = engine_stack.docker("run", "-d", "busybox", "sh", "-c", "exit 9").strip()
    assert re.fullmatch("[0-9a-f]{64}", container)
    assert engine_stack.docker("wait", container) == "9\n"
    assert engine_stack.docker("ps", "-a", "--format", "{{.Status}}").startswith("Exited (9) ")


def test_a_generated_name_has_two_words(engine_stack: Stack) -> None:
    engine_stack.docker("create", "busybox")
    assert re.fullmatch(r"[a-z]+_[a-z]+\n", engine_stack.docker("ps", "-a", "--format", "{{.Names}}"))


def test_the_columns_of_ps(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--name", "row", "busybox", "sh", "-c", "echo it\\'s")
    (row,) = json.loads("[" + engine_stack.docker("ps", "-a", "--format", "{{json .}}") + "]")
    assert row["Image"] == "busybox"
    assert row["Names"] == "row"
    assert row["Command"].startswith("\"sh -c 'echo it")
    assert row["Status"].startswith("Exited (0) ")
    assert len(row["ID"]) == 12


def test_names_conflict_in_docker_s_words(engine_stack: Stack) -> None:
    first = engine_stack.docker("create", "--name", "taken", "busybox").strip()
    code, message = engine_stack.fails("create", "--name", "taken", "busybox")
    assert code == 1
    assert f'Conflict. The container name "/taken" is already in use by container "{first}".' in message
    engine_stack.docker("rename", "taken", "other")
    engine_stack.docker("create", "--name", "taken", "busybox")
    assert "already in use" in engine_stack.fails("rename", "other", "taken")[1]


def test_environment_directory_user_and_hostname(engine_stack: Stack) -> None:
    script = "echo $A:$PATH:$HOSTNAME; pwd; id -u; id -g; hostname; cat /etc/hostname"
    out = engine_stack.docker(
        "run", "--rm", "-e", "A=b", "-w", "/var", "-u", "daemon", "-h", "here", "busybox", "sh", "-c", script
    )
    assert out.splitlines() == [
        "b:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:here",
        "/var", "1", "1", "here", "here",
    ]  # fmt: skip


def test_an_unknown_user_is_told(engine_stack: Stack) -> None:
    code, message = engine_stack.fails("run", "--rm", "-u", "nobodyhere", "busybox", "true")
    assert code in (125, 126)
    assert "unable to find user nobodyhere: no matching entries in passwd file" in message


def test_entrypoint_replaces_the_image_s_command(engine_stack: Stack) -> None:
    assert engine_stack.docker("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b\n"


def test_network_none_has_loopback_only(engine_stack: Stack) -> None:
    out = engine_stack.docker("run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net")
    assert out == "lo\n"


def test_the_bridge_reaches_the_engine_s_network(engine_stack: Stack) -> None:
    script = "ip -4 -o addr show eth0 | tr -s ' ' | cut -d ' ' -f 4; grep $HOSTNAME /etc/hosts | cut -f 1"
    address, listed = engine_stack.docker("run", "--rm", "busybox", "sh", "-c", script).split()
    assert address.partition("/")[0] == listed


def test_an_absent_image_is_a_404_that_makes_clients_pull(engine_stack: Stack) -> None:
    status, answer = engine_stack.ask("POST", "/containers/create", {"Image": "nosuch", "Cmd": ["x"]})
    assert (status, answer) == (404, {"message": "No such image: nosuch:latest"})
    code, message = engine_stack.fails("run", "--rm", "--pull", "never", "nosuch")
    assert code == 125
    assert "No such image: nosuch:latest" in message


def test_volumes_are_filled_from_the_image_and_outlive_containers(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--rm", "-v", "kept:/etc", "busybox", "sh", "-c", "echo new > /etc/made")
    out = engine_stack.docker("run", "--rm", "-v", "kept:/v:ro", "busybox", "ls", "/v")
    assert {"group", "made", "passwd"} <= set(out.split())
    assert engine_stack.docker("volume", "ls", "-q") == "kept\n"
    container = engine_stack.docker("create", "-v", "kept:/v", "busybox").strip()
    assert f"volume is in use - [{container}]" in engine_stack.fails("volume", "rm", "kept")[1]
    engine_stack.docker("rm", container)
    engine_stack.docker("volume", "rm", "kept")


def test_anonymous_volumes_go_with_a_removed_container(engine_stack: Stack) -> None:
    engine_stack.docker("run", "--rm", "-v", "/data", "busybox", "touch", "/data/x")
    assert engine_stack.docker("volume", "ls", "-q") == ""


def test_bind_mounts(engine_stack: Stack) -> None:
    folder = engine_stack.engine.folder / "shared"
    folder.mkdir()
    (folder / "in").write_text("hello\n")
    out = engine_stack.docker(
        "run", "--rm", "-v", f"{folder}:/mnt", "busybox", "sh", "-c", "cat /mnt/in; echo back > /mnt/out"
    )
    assert out == "hello\n"
    assert (folder / "out").read_text() == "back\n"
    code, _ = engine_stack.fails("run", "--rm", "-v", f"{folder}:/mnt:ro", "busybox", "touch", "/mnt/no")
    assert code == 1


def test_limits_are_refused_in_docker_s_words(engine_stack: Stack) -> None:
    refused = {
        ("--memory", "1m"): "Minimum memory limit allowed is 6MB",
        ("--cpus", "999"): "range of CPUs is from 0.01 to",
        ("--runtime", "nope"): "unknown or invalid runtime name: nope",
        ("--restart", "always"): "can't create 'AutoRemove' container with restart policy",
        ("-w", "relative"): "the working directory 'relative' is invalid, it needs to be an absolute path",
        ("--name", "no spaces"): "Invalid container name (no spaces)",
        ("--network", "nowhere"): "network nowhere not found",
        ("-v", "/tmp:relative"): "mount path must be absolute",
        ("--log-driver", "nope"): "no log driver named 'nope'",
        ("--stop-signal", "FOO"): "Invalid signal: FOO",
    }
    for flags, words in refused.items():
        code, message = engine_stack.fails("run", "--rm", *flags, "busybox", "true")
        assert code == 125 or flags[0] == "--restart"
        assert words in message or "Conflicting options: --restart and --rm" in message
    assert engine_stack.ask("GET", "/containers/json?all=1") == (200, [])
