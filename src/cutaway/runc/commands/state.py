"""`state`: show a container's state as JSON."""

import sys

from cutaway.runc import listing
from cutaway.runc import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed


def run(context: "Context", parsed: "Parsed") -> int:
    """Print the state; 0."""
    import json

    container = states.load(context.root, parsed.arguments[0])
    sys.stdout.write(json.dumps(listing.entry(container), indent=2, ensure_ascii=False))
    sys.stdout.flush()
    return 0
