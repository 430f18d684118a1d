"""Go templates as `--format` takes them, and tables."""

from __future__ import annotations

import pytest

from cutaway.cli.ps import ports, row_of
from cutaway.cli.table import align
from cutaway.cli.template import Template
from cutaway.errors import InvalidArgument

DATA: dict[str, object] = {
    "Name": "/web",
    "Id": "abc",
    "State": {"Running": True, "Pid": 42, "Error": None},
    "Env": ["A=1", "B=<2>"],
    "Labels": {"b": "2", "a": "1"},
    "Empty": [],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}:{{.State.Pid}}", "/web:42"),
        ("{{ .Name }}", "/web"),
        ("{{.State.Running}} {{.Env}} {{.Labels}}", "true [A=1 B=<2>] map[a:1 b:2]"),
        ("{{.State.Error}}", "<no value>"),
        ("{{json .Env}}", '["A=1","B=<2>"]'),
        ("{{json .Labels}}{{json .State}}", '{"b":"2","a":"1"}{"Running":true,"Pid":42,"Error":null}'),
        ("{{range .Env}}[{{.}}]{{end}}", "[A=1][B=<2>]"),
        ("{{range $i, $e := .Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=<2>;"),
        ("{{range $k, $v := .Labels}}{{$k}}{{$v}}{{end}}", "a1b2"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Empty}}a{{else if .Env}}b{{else}}c{{end}}", "b"),
        ("{{if and .Env (not .Empty)}}yes{{end}}", "yes"),
        ("{{with .State}}{{.Pid}}{{$.Id}}{{end}}", "42abc"),
        ("{{$x := .State.Pid}}{{$x}}", "42"),
        ('{{join .Env ","}}', "A=1,B=<2>"),
        ('{{.Env | len}} {{len .Name}} {{index .Env 1}} {{index .Labels "a"}}', "2 4 B=<2> 1"),
        ('{{.Name | upper | printf "%s-%d" "x"}}', 'x-/WEB'),
        ('{{printf "%-5s|%3d|%q" .Id 7 .Id}}', 'abc  |  7|"abc"'),
        ('{{eq .Id "abc"}} {{ne .Id "x"}} {{gt .State.Pid 41}} {{lt 1 2}}', "true true true true"),
        ("a  {{- .Id -}}  b", "aabcb"),
        (r"{{.Id}}\t{{.Id}}\n", "abc\tabc\n"),
        ("{{/* nothing */}}x", "x"),
        ('{{"}}"}}{{`a"b`}}', '}}a"b'),
        ("{{println .Id}}", "abc\n"),
        ('{{truncate .Name 2}}{{pad .Id 1 2}}{{title "x"}}{{split "a,b" ","}}', "/w abc  X[a b]"),
    ],
)  # fmt: skip
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Nope}}", 'executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.State.Nope}}", 'map has no entry for key "Nope"'),
        ("{{.State.Error.Deep}}", "nil pointer evaluating interface {}.Deep"),
        ("{{.Name.Deep}}", "can't evaluate field Deep"),
        ("{{nope .Id}}", 'function "nope" not defined'),
        ("{{.Id", "unclosed action"),
        ('{{"x}}', "unclosed action"),
        ("{{if .Id}}x", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{}}", "missing value for command"),
        ("{{.Id ? }}", "unexpected '?' in command"),
        ("{{(.Id}}", "unclosed left paren"),
        ("{{range .Id}}x{{end}}", "range can't iterate over abc"),
        ("{{index .Env 9}}", "index out of range"),
        ('{{gt .Id 1}}', "incompatible types"),
    ],
)  # fmt: skip
def test_bad_templates(template: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        Template(template).render(DATA)
    assert refusal.value.message.startswith("template parsing error: template: ")
    assert text in refusal.value.message


def test_columns_are_at_least_ten_wide_and_three_apart() -> None:
    assert align([["ID", "NAME", "X"], ["1", "long enough here", "y"]]).splitlines() == [
        "ID        NAME               X",
        "1         long enough here   y",
    ]


def test_a_container_as_a_row() -> None:
    row = row_of(
        {
            "Id": "f" * 64,
            "Image": "sha256:" + "e" * 64,
            "Command": "sh -c 'a long \"command\" line'",
            "Names": ["/web", "/other/web"],
            "Labels": {"b": "2", "a": "1"},
            "Mounts": [{"Name": "x" * 30, "Driver": "local"}],
            "State": "running",
        },
        whole=False,
    )
    assert row.field("ID") == "f" * 12 and row.field("Image") == "e" * 12
    assert row.field("Command") == '"sh -c \'a long \\"comm…"'
    assert row.field("Names") == "web" and row.field("Labels") == "a=1,b=2"
    assert row.field("Mounts") == "x" * 14 + "…" and row.field("LocalVolumes") == "1"
    assert Template('{{.Label "a"}}{{.Label "z"}}').render(row) == "1"


def test_ports_of_a_container() -> None:
    def port(
        private: int, public: int = 0, address: str = "0.0.0.0", protocol: str = "tcp"
    ) -> dict[str, object]:
        more: dict[str, object] = {"PublicPort": public, "IP": address} if public else {}
        return {"PrivatePort": private, "Type": protocol, **more}

    assert ports([port(80, 8080), port(9000), port(9001), port(53, 53, protocol="udp")]) == (
        "0.0.0.0:53->53/udp, 9000-9001/tcp, 0.0.0.0:8080->80/tcp"
    )
    assert ports([]) == ""
