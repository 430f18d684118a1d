"""`list`: the containers below a root."""

import sys

from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci import jsontext
from cutaway.runc import listing, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

_TITLES = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_LEAST, _GAP = 12, 3  # widths of runc's table


def run(context: "Context", parsed: "Parsed") -> int:
    """Print the containers; 0."""
    form = parsed.text("format", "table")
    entries = _entries(context)
    if parsed.flag("quiet"):
        text = "".join(f"{entry['id']}\n" for entry in entries)
    elif form == "table":
        text = table([_TITLES, *(_row(entry) for entry in entries)])
    elif form == "json":
        text = jsontext.dumps(entries or None) + "\n"
    else:
        raise InvalidArgument("invalid format option")
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _entries(context: "Context") -> "list[dict[str, object]]":
    found = []
    for container_id in state.ids(context.root):
        try:
            container = state.load(context.root, container_id)
            entry = listing.entry(container)
            entry["owner"] = listing.owner(container)
        except (NotFound, FileNotFoundError, InvalidArgument):
            continue  # being made or deleted right now, or not ours
        found.append(entry)
    return found


def _row(entry: "dict[str, object]") -> tuple[str, ...]:
    return tuple(str(entry[key]) for key in ("id", "pid", "status", "bundle", "created", "owner"))


def table(rows: "list[tuple[str, ...]]") -> str:
    """Rows in columns, the last one ragged."""
    widths = [max(_LEAST, *(len(row[i]) + _GAP for row in rows)) for i in range(len(rows[0]) - 1)]
    lines = ("".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) + row[-1] for row in rows)
    return "".join(f"{line}\n" for line in lines)
