"""`history`: the steps an image was made by."""

from cutaway.cli import units
from cutaway.cli.client import path_segment
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.table import Row, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

COMMAND_WIDTH = 45
HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def run_history(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`history IMAGE`, newest step first."""
    entries = invocation.client.call("GET", f"/images/{path_segment(arguments[0])}/history") or []
    whole, human, form = values.on("no-trunc"), values.on("human"), values.text("format")
    rows = [_row(entry, whole, human) for entry in entries]
    if values.on("quiet") and not form:
        for row in rows:
            print(row.field("ID"))
        return 0
    created = "CreatedSince" if human else "CreatedAt"
    columns = ["ID", created, "CreatedBy", "Size", "Comment"]
    show(rows, HEADINGS, columns, "{{json .}}" if form == "json" else form)
    return 0


def _row(entry: "dict[str, Any]", whole: bool, human: bool) -> Row:
    identity, size = str(entry.get("Id") or ""), int(entry.get("Size") or 0)
    created = int(entry.get("Created") or 0)
    command = str(entry.get("CreatedBy") or "").replace("\t", " ")
    return Row(
        {
            "ID": lambda: identity if whole else units.short_id(identity),
            "CreatedSince": lambda: units.ago(created) if human else units.rfc3339(created),
            "CreatedAt": lambda: units.rfc3339(created),
            "CreatedBy": lambda: command if whole else units.shorten(command, COMMAND_WIDTH),
            "Size": lambda: units.human_size(size) if human else str(size),
            "Comment": lambda: str(entry.get("Comment") or ""),
        }
    )


HISTORY = Command(
    run_history,
    "Show the history of an image",
    "IMAGE",
    least=1,
    most=1,
    flags=(
        Flag("format", "", "string", "Print each by a Go template; 'table TEMPLATE' with headings"),
        Flag("human", "H", "bool", "Sizes and dates for people", "true"),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("quiet", "q", "bool", "Print IDs only"),
    ),
)
