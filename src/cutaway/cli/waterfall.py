"""A trace as text: what each part did, when, for how long, and with which values.

    Trace 4bf92f35…: cutaway run hello-world, 152.3 ms, 41 spans

                                            0         50        100       150 ms
    cutaway, pid 4711                       |---------|---------|---------|
      cutaway run hello-world      152.3 ms ██████████████████████████████
        POST /containers/create     12.1 ms ██
          http.response.status_code=201
    cutawayd, pid 312
      ...
    no spans from containerd (not recorded by that part)

Parts come in the order of the chain, spans within a part as a tree. Pure: spans and a width in, text
out; nothing here knows where spans come from.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutaway.trace.collect import TraceSpan

# The chain, from the user to the kernel: what to call the part when it is silent, and how to know it.
CHAIN = (
    ("docker", ("cutaway", "docker")),
    ("dockerd", ("cutawayd", "dockerd")),
    ("containerd", ("cutaway-containerd", "containerd")),
    ("the shim", ("containerd-shim-cutaway-v1", "containerd-shim", "containerd-shim-runc-v2")),
    ("runc", ("cutaway-runc", "runc")),
)
NAME_WIDTH = 46
DURATION_WIDTH = 11
MAX_VALUE = 100
LONG_VALUE = 12
MINIMUM_BAR = 20


def render(spans: "Sequence[TraceSpan]", *, width: int = 110, plain: bool = False) -> str:
    """The whole picture, without a line end. `plain` keeps to ASCII."""
    if not spans:
        return "no spans were recorded for this"
    scale = Scale(spans, max(MINIMUM_BAR, width - NAME_WIDTH - DURATION_WIDTH - 2), plain)
    lines = [_title(spans, scale), "", *scale.axis()]
    for service in services(spans):
        lines += _part(service, spans, scale, width)
    lines += [f"no spans from {name} (not recorded by that part)" for name in silent(spans)]
    return "\n".join(line.rstrip() for line in lines)


def services(spans: "Sequence[TraceSpan]") -> list[str]:
    """The parts that recorded something: the chain's in its order, then others by their first span."""
    order = {name: rank for rank, (_, names) in enumerate(CHAIN) for name in names}
    first: dict[str, int] = {}
    for span in spans:
        first[span.service] = min(first.get(span.service, span.start_ns), span.start_ns)
    return sorted(first, key=lambda service: (order.get(service, len(CHAIN)), first[service]))


def silent(spans: "Sequence[TraceSpan]") -> list[str]:
    """The parts of the chain that recorded nothing."""
    heard = {span.service for span in spans}
    return [name for name, names in CHAIN if not heard.intersection(names)]


class Scale:
    """From moments to columns."""

    def __init__(self, spans: "Sequence[TraceSpan]", columns: int, plain: bool) -> None:
        self.start = min(span.start_ns for span in spans)
        self.total = max(1, max(span.end_ns for span in spans) - self.start)
        self.columns = columns
        self._full, self._sliver = ("#", "|") if plain else ("█", "▏")

    def bar(self, span: "TraceSpan") -> str:
        """Blanks up to the span's start, then its length; at least a sliver."""
        first = (span.start_ns - self.start) * self.columns // self.total
        last = (span.end_ns - self.start) * self.columns // self.total
        first = min(first, self.columns - 1)
        return " " * first + (self._full * (last - first) or self._sliver)

    def axis(self) -> list[str]:
        """Numbers in ms, and a tick under each."""
        step = self._step()
        numbers, ticks = "", ""
        moment = 0
        while moment <= self.total:
            column = moment * self.columns // self.total
            label = f"{moment / 1e6:g}"
            if column >= len(numbers) and column + len(label) <= self.columns:
                numbers = numbers.ljust(column) + label + " "
                ticks = ticks.ljust(column, "-") + "|"
            moment += step
        margin = " " * (NAME_WIDTH + DURATION_WIDTH + 1)
        return [f"{margin}{numbers}ms", f"{margin}{ticks.ljust(self.columns, '-')}"]

    def _step(self) -> int:
        """A round number of nanoseconds that leaves room for its label."""
        wanted = max(1, self.total * 10 // self.columns)
        step = 1
        while True:
            for factor in (1, 2, 5):
                if step * factor >= wanted:
                    return step * factor
            step *= 10


def _title(spans: "Sequence[TraceSpan]", scale: Scale) -> str:
    root = min(spans, key=lambda span: (span.start_ns, -span.end_ns))
    count = f"{len(spans)} span{'s' if len(spans) > 1 else ''}"
    return f"Trace {clean(root.trace_id)}: {clean(root.name)}, {milliseconds(scale.total)}, {count}"


def milliseconds(nanoseconds: int) -> str:
    """`152.3 ms`, `0.042 ms`: four significant digits at most, three decimals at most."""
    value = nanoseconds / 1e6
    decimals = 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{value:.{decimals}f} ms"


def _part(service: str, spans: "Sequence[TraceSpan]", scale: Scale, width: int) -> list[str]:
    own = [span for span in spans if span.service == service]
    pids = sorted({span.pid for span in own if span.pid})
    label = ", ".join(map(str, pids))
    lines = ["", f"{clean(service) or '(unnamed part)'}{', pid ' + label if pids else ''}"]
    said: dict[str, str] = {}
    for span, depth in tree(own):
        indent = "  " * (depth + 1)
        name = _fit(indent + shorten_ids(clean(span.name)), NAME_WIDTH)
        duration = milliseconds(span.end_ns - span.start_ns)
        lines.append(f"{name:{NAME_WIDTH}}{duration:>{DURATION_WIDTH}} {scale.bar(span)}")
        lines += values(news(span, said), span.error, indent + "    ", width)
    return lines


def _fit(text: str, width: int) -> str:
    return text if len(text) < width else text[: width - 2] + "…"


def tree(spans: "Sequence[TraceSpan]") -> "list[tuple[TraceSpan, int]]":
    """Spans with their depth: children below their parent, everything by start."""
    known = {span.span_id for span in spans}
    children: dict[str, list[TraceSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    out: list[tuple[TraceSpan, int]] = []
    todo = [(span, 0) for span in reversed(children.get("", []))]
    while todo:
        span, depth = todo.pop()
        out.append((span, depth))
        todo += [(child, depth + 1) for child in reversed(children.pop(span.span_id, []))]
    listed = {span.span_id for span, _ in out}
    return out + [(span, 0) for span in spans if span.span_id not in listed]  # a ring of parents


def news(span: "TraceSpan", said: dict[str, str]) -> dict[str, str]:
    """The span's attributes without what its part has just said: a peer, a container's ID, a service.

    Short values stand again each time: that one mount is read-only does not go without saying for the next.
    """
    found = {}
    for key, value in span.attributes.items():
        if said.get(key) != value or (len(value) < LONG_VALUE and not key.startswith("rpc.")):
            found[key] = value
        said[key] = value
    return found


def values(attributes: dict[str, str], error: str, indent: str, width: int) -> list[str]:
    """A span's error and attributes, as many to a line as fit."""
    items = [_request(attributes)] if "http.request.method" in attributes else []
    room = width - len(indent)
    items += [
        f"{key}={shown(value, room - len(key) - 1)}" for key, value in attributes.items() if value != ""
    ]
    lines = [f"{indent}failed: {clean(error)}"] if error else []
    line = ""
    for item in items:
        if line and len(indent) + len(line) + 2 + len(item) > width:
            lines.append(indent + line)
            line = ""
        line = f"{line}  {item}" if line else item
    return [*lines, indent + line] if line else lines


def _request(attributes: dict[str, str]) -> str:
    """Method, path and status as one item, taken out of the attributes."""
    method, path = attributes.pop("http.request.method"), attributes.pop("url.path", "")
    status = attributes.pop("http.response.status_code", "")
    text = f"{method} {shorten_ids(clean(path))}".rstrip()
    return f"{text} -> {clean(status)}" if status else text


def shorten_ids(text: str) -> str:
    """64-digit IDs in a path cut to the twelve digits people know them by."""
    return "/".join(part[:12] + part[64:] if is_id(part[:64]) else part for part in text.split("/"))


def is_id(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def shown(value: str, room: int = MAX_VALUE) -> str:
    """A value on one line; digests by their first twelve digits, the middle of very long texts left out."""
    text = clean(value)
    algorithm, colon, digits = text.partition(":")
    if colon and algorithm == "sha256" and len(digits) == 64:
        return f"sha256:{digits[:12]}…"
    room = max(40, room)
    if len(text) > room:
        return f"{text[: room - 29]}…{text[-28:]}"
    return text


def clean(text: str) -> str:
    """Without control characters: what was recorded may not steer the reader's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text.replace("\n", " ").replace("\t", " "))
