"""`state`: show a container's state as JSON."""

import sys

from cutaway.oci import jsontext
from cutaway.runc import listing
from cutaway.runc import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Print the state; 0."""
    container = states.load(context.root, parsed.arguments[0])
    sys.stdout.write(_indented(listing.entry(container)))
    sys.stdout.flush()
    return 0


def _indented(value: object, margin: str = "") -> str:
    """JSON with one member a line, as runc prints it. The json package would do it, for 8 ms of import."""
    if not (isinstance(value, dict) and value):
        return jsontext.dumps(value)
    inner = f"{margin}  "
    members = (f"{inner}{jsontext.dumps(key)}: {_indented(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(members) + f"\n{margin}}}"
