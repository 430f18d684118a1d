"""The picture of a trace, from spans made up."""

from __future__ import annotations

from cutaway.cli.trace import to_otlp
from cutaway.cli.waterfall import Scale, clean, milliseconds, render, services, shown, silent, tree
from cutaway.trace.collect import TraceSpan, decode_request

MS = 1_000_000


def span(
    identity: str, service: str, start: float, end: float, parent: str = "", **attributes: str
) -> TraceSpan:
    return TraceSpan(
        trace_id="ab" * 16,
        span_id=identity,
        parent_id=parent,
        service=service,
        pid=len(service),
        name=f"step {identity}",
        start_ns=10**18 + int(start * MS),
        end_ns=10**18 + int(end * MS),
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
    )


REQUEST = {
    "http__request__method": "POST",
    "url__path": f"/v1.41/containers/{'f' * 64}/start",
    "http__response__status_code": "204",
}
RUN = [
    span("e", "cutaway-runc", 40, 50, "d", pid="77"),
    span("a", "cutaway", 0, 100),
    span("c", "cutawayd", 10, 60, "b", digest="sha256:" + "1" * 64),
    span("b", "cutaway", 5, 65, "a", **REQUEST),
    span("d", "containerd-shim-cutaway-v1", 30, 55, "c"),
]  # fmt: skip


def test_parts_come_in_the_order_of_the_chain() -> None:
    assert services(RUN) == ["cutaway", "cutawayd", "containerd-shim-cutaway-v1", "cutaway-runc"]
    assert silent(RUN) == ["containerd"]


def test_the_picture() -> None:
    lines = render(RUN, width=110, plain=True).splitlines()
    assert lines[0] == f"Trace {'ab' * 16}: step a, 100.0 ms, 5 spans"
    rows = {line.split()[1]: line for line in lines if line.startswith("  ") and "step" in line}
    bars = {name: line[58:] for name, line in rows.items()}
    full = 110 - 46 - 11 - 2
    assert bars["a"] == "#" * full
    assert bars["c"] == " " * (full * 10 // 100) + "#" * (full * 60 // 100 - full * 10 // 100)
    assert rows["b"].startswith("    step b"), "a child is indented below its parent"
    assert rows["e"].startswith("  step e"), "each part has a tree of its own"
    assert "50.00 ms" in rows["c"] and "60.00 ms" in rows["b"]
    text = "\n".join(lines)
    assert "POST /v1.41/containers/ffffffffffff/start -> 204" in text
    assert "digest=sha256:111111111111…" in text and "pid=77" in text
    assert lines[-1] == "no spans from containerd (not recorded by that part)"


def test_every_line_fits() -> None:
    long = span("z", "cutaway", 0, 1, "a", path="/" + "x" * 500, **{"k" * 20: "y" * 500})
    for line in render([*RUN, long], width=110).splitlines():
        assert len(line) <= 110


def test_the_axis_has_round_numbers_and_the_total_decides_them() -> None:
    numbers, ticks = Scale(RUN, 50, plain=True).axis()
    assert numbers.split() == ["0", "20", "40", "60", "80", "ms"]
    assert [index for index, char in enumerate(ticks.strip()) if char == "|"] == [0, 10, 20, 30, 40]


def test_a_span_of_no_length_still_shows() -> None:
    lines = render([span("a", "cutaway", 0, 10), span("b", "cutaway", 10, 10, "a")], plain=True).splitlines()
    assert next(line for line in lines if "step b" in line).endswith("#")


def test_a_single_span_of_no_length() -> None:
    assert "step a, 0.000 ms, 1 span" in render([span("a", "cutaway", 5, 5)])


def test_failures_are_told() -> None:
    failed = span("a", "cutaway", 0, 1)
    failed.error = "no\nspace"
    assert "failed: no space" in render([failed])


def test_a_ring_of_parents_loses_nothing() -> None:
    ring = [span("a", "cutaway", 0, 1, "b"), span("b", "cutaway", 0, 1, "a")]
    assert {found.span_id for found, _ in tree(ring)} == {"a", "b"}
    assert "step a" in render(ring) and "step b" in render(ring)


def test_no_spans_at_all() -> None:
    assert render([]) == "no spans were recorded for this"


def test_what_a_part_has_just_said_is_not_said_again() -> None:
    text = render(
        [
            span("a", "cutawayd", 0, 9),
            span("b", "cutawayd", 1, 2, "a", rpc__system="grpc", peer="/run/containerd.sock", mode="ro"),
            span("c", "cutawayd", 3, 4, "a", rpc__system="grpc", peer="/run/containerd.sock", mode="ro"),
            span("d", "cutawayd", 5, 6, "a", peer="/run/another.sock"),
        ]
    )
    assert text.count("rpc.system=grpc") == text.count("peer=/run/containerd.sock") == 1
    assert text.count("mode=ro") == 2 and "peer=/run/another.sock" in text


def test_values_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb") == "a?[2Jb"
    evil = span("a", "cutaway", 0, 1, key="x\x1b]0;title\x07")
    evil.name = "\x1b[31mred"
    assert "\x1b" not in render([evil])


def test_long_values_keep_both_ends() -> None:
    text = shown("/var/lib/" + "x" * 300 + "/rootfs")
    assert text.startswith("/var/lib/") and text.endswith("/rootfs") and len(text) < 110


def test_durations() -> None:
    assert milliseconds(123_456_789) == "123.5 ms"
    assert milliseconds(12_345_678) == "12.35 ms"
    assert milliseconds(42_000) == "0.042 ms"


def test_spans_survive_the_way_through_otlp() -> None:
    assert sorted(s.span_id for s in decode_request(to_otlp(RUN))) == ["a", "b", "c", "d", "e"]
    back = {s.span_id: s for s in decode_request(to_otlp(RUN))}
    assert back["b"] == RUN[3]
