"""What cutaway prints and returns is what docker prints and returns, on the same daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from cli.side_by_side import SideBySide
from support.stack import RealRegistry

pytestmark = [pytest.mark.root, pytest.mark.peers]

SHELL = "busybox sh -c"


def words(line: str) -> list[str]:
    """A command line; what follows `sh -c` is one word."""
    head, separator, script = line.partition("sh -c ")
    return [*head.split(), "sh", "-c", script] if separator else head.split()


@pytest.mark.parametrize(
    "line",
    [
        "run",
        "run --foo x",
        "run -x busybox",
        "run --name",
        "run -e",
        "run -m abc busybox",
        "run --cpus x busybox",
        "run -a foo busybox",
        "run --ulimit x busybox true",
        "run --pull never nosuch",
        "run nosuch:1",
        "run -v rel:/x:foo busybox true",
        "run -v a:b:c:d busybox true",
        "run --name !! busybox true",
        "run --restart=always --rm busybox",
        "run -d --rm -a stdout busybox true",
        "run --env-file /nowhere busybox",
        "run -p x busybox true",
        "run -it busybox true",
        "ps --foo",
        "ps x",
        "ps -f x",
        "ps -f foo=bar",
        "rm",
        "rm nope",
        "rm -f nope",
        "rmi nope",
        "rmi -f nope",
        "stop nope",
        "kill",
        "kill nope",
        "wait nope",
        "logs nope",
        "exec",
        "exec nope true",
        "exec -it nope sh",
        "start nope",
        "start -a nope",
        "attach nope",
        "inspect nope",
        "inspect --type image nope",
        "container inspect nope",
        "image inspect nope",
        "tag nope x",
        "pull nope:1",
        "pull -a busybox:1",
        "top nope",
        "port nope",
        "rename a b",
        "pause nope",
        "events --since x",
        "run x:y:z",
        "run --label-file /nowhere busybox",
        "run --security-opt seccomp=/nowhere busybox",
        "run --mount foo busybox",
        "run --mount type=bind busybox",
        "run -l =x busybox true",
        "run --env =x busybox true",
        "run --restart on-failure:x busybox true",
        "run --stop-signal FOO busybox true",
        "run --user nosuch busybox true",
        "run -w rel busybox true",
        "run --runtime nope busybox true",
        "run --cap-add FOO busybox true",
        "create nosuch:1",
        "create -p x busybox",
        "stop -t x nope",
        "kill -s FOO nope",
    ],
)
def test_refusals(both: SideBySide, line: str) -> None:
    assert both.same(*words(line)).err or line == "rm -f nope"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("busybox sh -c echo out; echo err >&2; exit 3", 3),
        ("busybox sh -c kill -TERM $$; sleep 5", 0),
        ("-e A=1 -e HOME -w /tmp -u 1:2 -h hh busybox sh -c echo $A $HOME; pwd; id; hostname", 0),
        ("--read-only --pids-limit 20 -m 64m --cpus .5 busybox sh -c touch /x", 1),
        ("--cap-add NET_ADMIN --cap-drop CHOWN busybox sh -c grep Cap /proc/self/status", 0),
        ("-v /usr:/t:ro --tmpfs /tt --mount type=bind,source=/usr,target=/u,readonly busybox sh -c "
         "grep -oE ' /(t|tt|u) [a-z0-9]+ r[ow]' /proc/mounts | sort", 0),
        ("--entrypoint echo busybox a b", 0),
        ("--network none busybox ip addr", 0),
        ("--init busybox cat /proc/1/comm", 0),
        ("-l a=b --security-opt no-new-privileges busybox sh -c grep NoNew /proc/self/status", 0),
        ("busybox nosuchcommand", 127),
        ("busybox /etc", 126),
        ("--network nope busybox true", 125),
    ],
)  # fmt: skip
def test_runs(both: SideBySide, line: str, code: int) -> None:
    assert both.same("run", "--rm", *words(line)).code in (code, code + 128 + 15)


@pytest.fixture(scope="module")
def world(both: SideBySide) -> Iterator[SideBySide]:
    """A running container with much to show, one that has ended, and one that was never started."""
    both.docker("run", "-d", "--name", "w1", "-l", "k=v", "-l", "a=b", "-v", "/usr:/t", "-p", "8080:80", "-p",
                "91:91/udp", "--expose", "7000-7003", "busybox", "sleep", "1000")  # fmt: skip
    both.docker("run", "--name", "w2", "busybox", "sh", "-c", "echo a; echo b >&2; exit 3")
    both.docker("create", "--name", "w3", "busybox", 'a"b\tc')
    yield both
    both.remove("w1", "w2", "w3")


@pytest.mark.parametrize(
    "line",
    [
        "ps",
        "ps -a",
        "ps -aq",
        "ps -a --no-trunc",
        "ps -s",
        "ps -l",
        "ps -n 2 -q",
        "ps -aq -f status=exited -f name=w",
        "container ls -q",
        "images",
        "images -q",
        "images --digests",
        "images --no-trunc",
        "images nosuch",
        "image ls busybox",
        "images -f dangling=true",
        "top w1 -o pid,args",
        "port w1 80",
        "port w1 81",
        "inspect w1 w2 nope",
        "inspect w3",
        "inspect busybox",
        "logs w2",
        "logs -t w2",
        "logs --tail 1 w2",
        "logs -n 0 w2",
        "wait w2",
        "wait w2 nope",
        "exec w1 nosuch",
        "exec w2 true",
        "exec w1 sh -c exit 4",
        "exec -e A=5 -w /tmp -u 3 w1 sh -c echo $A; pwd; id",
        "exec -d w1 true",
        "rm w1",
        "start w1",
        "unpause w1",
        "kill w2",
        "stop w2",
    ],
)
def test_questions_and_small_deeds(world: SideBySide, line: str) -> None:
    world.same(*words(line))


@pytest.mark.parametrize(
    ("command", "template"),
    [
        ("ps -a", "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.State}}"),
        ("ps -a", "{{json .Ports}} {{.Networks}}"),
        ("ps -a --filter name=w2", "{{.Labels}}"),  # docker gives more than one in any order
        ("ps -a", "table {{.Names}}\t{{.Image}}"),
        ("ps -a", '{{.Label "k"}} {{.Mounts}} {{.LocalVolumes}} {{upper .Names}}'),
        ("images", "{{.Repository}}:{{.Tag}} {{.Digest}} {{.Size}} {{.CreatedAt}}"),
        ("inspect w1", "{{.State.Pid}} {{.Config.Env}} {{.HostConfig.Memory}} {{json .Config}}"),
        ("inspect w1", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}} {{end}}"),
        ("inspect w1", '{{range .Config.Env}}{{println .}}{{end}}{{index .Config.Labels "k"}}'),
        ("inspect w1", '{{if .State.Running}}yes{{else}}no{{end}} {{.Name | printf "%s-%s" "x"}}'),
        ("inspect w1", '{{join .Config.Cmd ","}} {{.HostConfig.Binds}} {{eq .Name "/w1"}}'),
        ("inspect w1 w2", "{{.Name}} {{.State.ExitCode}}"),
        ("info", "{{.ID}} {{.Driver}} {{.NCPU}} {{json .Plugins.Volume}}"),
        ("version", "{{.Server.Version}} {{.Server.Os}}"),
    ],
)  # fmt: skip
def test_templates(world: SideBySide, command: str, template: str) -> None:
    assert world.same(*command.split(), "--format", template).code == 0


def test_events(both: SideBySide) -> None:
    both.docker("run", "--rm", "--name", "eventful", "busybox", "true")
    span = ("--since", "1m", "--until", f"{time.time():.9f}", "--filter", "container=eventful")
    assert "container die ID64 (exitCode=0, image=busybox, name=eventful)\n" in both.same("events", *span).out
    assert both.same("events", *span, "--filter", "event=die", "--format", "{{.Action}}").out == "die\n"


def test_the_life_of_a_container(both: SideBySide) -> None:
    docker = both.docker
    both.remove("life", "life2")
    try:
        both.same(
            "run", "-d", "--name", "life", "busybox", "sleep", "1000", before=partial(both.remove, "life")
        )
        both.same("pause", "life", before=partial(docker, "unpause", "life"))
        both.same("pause", "life")
        both.same("unpause", "life", before=partial(docker, "pause", "life"))
        both.same("restart", "-t", "0", "life")
        both.same("stop", "-t", "0", "life", before=partial(docker, "start", "life"))
        both.same("stop", "life")
        both.same("start", "life", before=partial(docker, "kill", "life"))
        both.same("kill", "life", "nope", before=partial(docker, "start", "life"))
        both.same("kill", "life")
        both.same("rename", "life", "life2", before=partial(docker, "rename", "life2", "life"))
        both.same("rename", "life2", "life2")
        both.same("rm", "life2", before=partial(docker, "create", "--name", "life2", "busybox"))
        both.same(
            "rm", "-f", "life", "nope", before=partial(docker, "run", "-d", "--name", "life", "busybox")
        )
    finally:
        both.remove("life", "life2")


def test_start_and_attach(both: SideBySide) -> None:
    both.remove("again")
    both.docker("create", "--name", "again", "-i", "busybox", "sh", "-c", "cat; echo bad >&2; exit 5")
    try:
        seen = both.same("start", "-a", "-i", "again", input="typed\n")
        assert (seen.code, seen.out, seen.err) == (5, "typed\n", "bad\n")
        both.same("attach", "again")
        both.same("logs", "again")
    finally:
        both.remove("again")


def test_pulling(both: SideBySide, registry: RealRegistry) -> None:
    image = f"{registry.host}/library/busybox"
    forget = partial(both.docker, "rmi", "-f", image)
    both.same("pull", image, before=forget)
    both.same("pull", image)
    both.same("pull", "-q", image)
    both.same("pull", f"{image}:none")
    both.same("pull", f"{registry.host}/nothing")
    assert both.same("run", "--rm", image, "echo", "hi", before=forget).out == "hi\n"
    both.same("run", "--rm", "--pull", "always", image, "true")
    both.same("rmi", image, before=partial(both.docker, "pull", image))


def test_tags(both: SideBySide) -> None:
    both.same("tag", "busybox", "mine:1")
    both.same("rmi", "mine:1", before=partial(both.docker, "tag", "busybox", "mine:1"))
    both.same("tag", "busybox", "mine@sha256:" + "0" * 64)


def test_an_id_goes_to_the_cidfile(both: SideBySide) -> None:
    path = both.engine.folder / "cid"

    def forget() -> None:
        path.unlink(missing_ok=True)
        both.remove("withid")

    try:
        both.same("run", "--cidfile", str(path), "--name", "withid", "busybox", "true", before=forget)
        assert path.read_text() == both.engine.docker("inspect", "-f", "{{.Id}}", "withid").stdout.strip()
        taken = both.cutaway("run", "--cidfile", str(path), "busybox", "true")
        assert taken.code == 125 and "container ID file found" in taken.err
        path.unlink()
        assert both.cutaway("run", "--cidfile", str(path), "nosuch:1").code == 125
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)
        both.remove("withid")
