"""The API by hand: versions, headers, errors, bad input, filters, events, traces."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

import pytest

from engine.engine_stack import Stack
from support.process import wait_until
from support.stack import UnixConnection

pytestmark = [pytest.mark.root, pytest.mark.peers]


def raw(
    stack: Stack, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = UnixConnection(stack.engine.socket)
    try:
        connection.request(method, path, body or None, headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_ping(engine_stack: Stack) -> None:
    response, body = raw(engine_stack, "HEAD", "/_ping")
    assert (response.status, body) == (200, b"")
    assert response.headers["Api-Version"] == "1.47"
    assert response.headers["Ostype"] == "linux"
    assert response.headers["Docker-Experimental"] == "false"
    assert response.headers["Server"].startswith("Cutaway/")
    assert raw(engine_stack, "GET", "/_ping")[1] == b"OK"


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("1.24", 200, ""),
        ("1.47", 200, ""),
        ("1.48", 400, "client version 1.48 is too new. Maximum supported API version is 1.47"),
        ("1.23", 400, "client version 1.23 is too old. Minimum supported API version is 1.24"),
    ],
)
def test_versions_in_the_path(engine_stack: Stack, version: str, status: int, words: str) -> None:
    found, answer = engine_stack.ask("GET", f"/v{version}/info")
    assert found == status
    assert words in json.dumps(answer)


def test_unknown_routes(engine_stack: Stack) -> None:
    for method, path in (("GET", "/nothing"), ("PUT", "/info"), ("GET", "/v1.41/nothing"), ("POST", "/")):
        assert engine_stack.ask(method, path) == (404, {"message": "page not found"})


def test_errors_are_json_without_a_charset(engine_stack: Stack) -> None:
    """The CLI compares the content type as a whole, and prints the JSON itself if it differs."""
    response, body = raw(engine_stack, "GET", "/containers/none/json")
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"message": "No such container: none"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"{", "invalid JSON"),
        (b"[]", "request body: expected object, got array"),
        (b"null", "expected object, got null"),
        (b'{"Image": 5}', "request body.Image: expected string, got number"),
        (b'{"Image": "busybox", "Cmd": [1]}', "request body.Cmd"),
        (b'{"Image": "busybox", "Env": "A=b"}', "request body.Env: expected array, got string"),
        (
            b'{"Image": "busybox", "HostConfig": {"Memory": "1g"}}',
            "request body.HostConfig.Memory: expected integer",
        ),
        (b'{"Image": "busybox", "HostConfig": {"Memory": 1e99}}', "request body.HostConfig.Memory"),
        (
            b'{"Image": "busybox", "HostConfig": {"PortBindings": {"x": [{}]}}}',
            'invalid port specification: "x"',
        ),
        (b'{"Image": "busybox", "Env": ["=x"]}', "invalid environment variable: =x"),
        (b'{"Image": "UPPER"}', "UPPER"),
        (b"[" * 100000, "nested too deeply"),
        (b'{"Image": "\xff"}', "invalid JSON"),
    ],
)
def test_bad_bodies_are_told_by_their_path(engine_stack: Stack, body: bytes, words: str) -> None:
    headers = {"Content-Type": "application/json"}
    response, answer = raw(engine_stack, "POST", "/containers/create", body, headers)
    assert response.status == 400
    assert words in json.loads(answer)["message"]
    assert engine_stack.ask("GET", "/containers/json?all=1") == (200, [])


def test_unknown_keys_are_ignored(engine_stack: Stack) -> None:
    """A client of a newer version sends more than we know (seams.md 1.3)."""
    body = {"Image": "busybox", "Cmd": "true", "Nonsense": [1], "HostConfig": {"GwPriority": 5}}
    assert engine_stack.ask("POST", "/containers/create", body)[0] == 201


def test_bad_parameters(engine_stack: Stack) -> None:
    bad = [
        "/containers/json?limit=many", "/containers/json?filters=%7B", "/containers/json?filters=%5B%5D",
        "/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D", "/events?since=yesterday",
        "/containers/json?filters=%7B%22status%22%3A%5B%22x%22%5D%7D", "/events?since=9&until=5",
    ]  # fmt: skip
    for path in bad:
        status, answer = engine_stack.ask("GET", path)
        assert status == 400, path
        assert answer["message"]


def test_inspect_has_what_clients_read(engine_stack: Stack) -> None:
    engine_stack.docker(
        "run", "-d", "--name", "full", "-p", "127.0.0.1:18080:80", "-e", "A=b", "-l", "k=v",
        "-v", "/data", "busybox", "sleep", "100",
    )  # fmt: skip
    found = engine_stack.inspect("full")
    assert found["Name"] == "/full"
    assert (found["Path"], found["Args"]) == ("sleep", ["100"])
    assert found["Config"]["Labels"] == {"k": "v"}
    assert "A=b" in found["Config"]["Env"]
    assert found["HostConfig"]["NetworkMode"] == "default" or found["HostConfig"]["NetworkMode"] == "bridge"
    assert found["HostConfig"]["MemorySwappiness"] is None
    assert found["HostConfig"]["ShmSize"] == 64 << 20
    assert found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert found["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}
    assert [mount["Destination"] for mount in found["Mounts"]] == ["/data"]
    assert found["State"]["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert engine_stack.docker("port", "full") == "80/tcp -> 127.0.0.1:18080\n"
    _, network = engine_stack.ask("GET", "/networks/bridge")
    assert network["Containers"][found["Id"]]["Name"] == "full"


def filtered(stack: Stack, **filters: list[str]) -> list[str]:
    query = urllib.parse.quote(json.dumps(filters))
    _, found = stack.ask("GET", f"/containers/json?all=1&filters={query}")
    return sorted(item["Names"][0] for item in found)


def test_filters_of_the_list(engine_stack: Stack) -> None:
    engine_stack.docker("run", "-d", "--name", "up", "-l", "kind=a", "busybox", "sleep", "100")
    engine_stack.fails("run", "--name", "down", "-l", "kind=b", "busybox", "sh", "-c", "exit 3")
    assert filtered(engine_stack, status=["running"]) == ["/up"]
    assert filtered(engine_stack, exited=["3"]) == ["/down"]
    assert filtered(engine_stack, label=["kind"]) == ["/down", "/up"]
    assert filtered(engine_stack, label=["kind=b"]) == ["/down"]
    assert filtered(engine_stack, name=["^/up$", "nothing"]) == ["/up"]
    assert filtered(engine_stack, ancestor=["busybox"], since=["up"]) == ["/down"]
    assert filtered(engine_stack, ancestor=["other"]) == []
    assert engine_stack.docker("ps", "-q", "--filter", "status=exited").count("\n") == 1
    assert engine_stack.docker("ps", "-aqn", "1").count("\n") == 1
    _, pruned = engine_stack.ask("POST", "/containers/prune")
    assert len(pruned["ContainersDeleted"]) == 1
    assert filtered(engine_stack) == ["/up"]


def events(stack: Stack, since: int, **filters: list[str]) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"since": since, "until": since + 1000, "filters": json.dumps(filters)})
    connection = UnixConnection(stack.engine.socket)
    connection.request("GET", f"/events?{query}")
    response = connection.getresponse()
    lines: list[dict[str, Any]] = []
    connection.sock.settimeout(1)
    try:
        while line := response.readline():
            lines.append(json.loads(line))
    except TimeoutError:
        pass
    connection.close()
    return lines


def test_events_of_a_run_in_docker_s_order(engine_stack: Stack) -> None:
    _, info = engine_stack.ask("GET", "/info")
    since = int(engine_stack.netns.run(["date", "+%s"]).stdout)
    engine_stack.docker("run", "--rm", "--name", "told", "-l", "a=b", "busybox", "true")
    found = events(engine_stack, since)
    container = next(e["id"] for e in found if e["Actor"]["Attributes"].get("name") == "told")
    told = [event for event in found if container in json.dumps(event)]
    actions = [f"{event['Type']} {event['Action']}" for event in told]
    assert actions == [
        "container create", "container attach", "network connect", "container start",
        "container die", "network disconnect", "container destroy",
    ]  # fmt: skip
    die = told[4]["Actor"]["Attributes"]
    assert (die["exitCode"], die["image"], die["name"], die["a"]) == ("0", "busybox", "told", "b")
    only = events(engine_stack, since, type=["container"], event=["die"], container=["told"])
    assert [event["Action"] for event in only] == ["die"]
    assert info["ServerVersion"]


def test_version_and_info_by_the_cli(engine_stack: Stack) -> None:
    for command in ("version", "info"):
        assert "runc" in engine_stack.docker(command)
    _, version = engine_stack.ask("GET", "/version")
    assert [part["Name"] for part in version["Components"]] == ["Engine", "containerd", "runc"]
    assert version["MinAPIVersion"] == "1.24"


def test_what_is_not_built_says_so(engine_stack: Stack) -> None:
    for method, path in (("POST", "/networks/create"), ("POST", "/build")):
        status, answer = engine_stack.ask(method, path)
        assert (status, "not supported" in answer["message"]) == (501, True)


def test_built_in_networks(engine_stack: Stack) -> None:
    assert sorted(engine_stack.docker("network", "ls", "--format", "{{.Name}}").split()) == [
        "bridge", "host", "none",
    ]  # fmt: skip
    assert engine_stack.ask("GET", "/networks/nope") == (404, {"message": "network nope not found"})
    assert engine_stack.ask("DELETE", "/networks/bridge")[0] == 403


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_run_is_traced_through_the_engine(engine_stack: Stack) -> None:
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "Content-Type": "application/json"}
    body = json.dumps({"Image": "busybox", "Cmd": ["true"]}).encode()
    _, made = raw(engine_stack, "POST", "/containers/create", body, headers)
    container = json.loads(made)["Id"]
    engine_stack.ask("POST", f"/containers/{container}/start")  # continues the container's trace
    engine_stack.docker("wait", container)

    def names() -> set[str]:
        status, trace = engine_stack.ask("GET", f"/containers/{container}/trace")
        return {span["name"] for span in trace["Spans"]} if status == 200 else set()

    wanted = {
        "POST /containers/create",
        "Snapshots/Prepare",
        "Tasks/Create",
        "network attach",
        "container exit",
    }
    wait_until(lambda: wanted <= names(), f"{wanted} are recorded")
    _, trace = engine_stack.ask("GET", f"/v1/traces/{TRACE}")
    assert trace["TraceID"] == TRACE
    assert {span["service"] for span in trace["Spans"]} == {"cutawayd"}
    ids = {span["spanId"] for span in trace["Spans"]} | {"00f067aa0ba902b7"}
    assert all(span["parentId"] in ids for span in trace["Spans"])


def test_other_parts_hand_in_spans(engine_stack: Stack) -> None:
    span = {
        "traceId": "a" * 32, "spanId": "b" * 16, "name": "mount",
        "startTimeUnixNano": "5", "endTimeUnixNano": "9",
        "attributes": [{"key": "target", "value": {"stringValue": "/proc"}}],
    }  # fmt: skip
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "cutaway-runc"}}]}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}
    assert engine_stack.ask("POST", "/v1/traces", body)[0] == 200
    _, trace = engine_stack.ask("GET", f"/v1/traces/{'a' * 32}")
    (found,) = trace["Spans"]
    assert (found["service"], found["name"], found["attributes"]) == (
        "cutaway-runc",
        "mount",
        {"target": "/proc"},
    )
    assert engine_stack.ask("POST", "/v1/traces", {"resourceSpans": 5})[0] == 400
    assert engine_stack.ask("GET", f"/v1/traces/{'c' * 32}")[0] == 404
