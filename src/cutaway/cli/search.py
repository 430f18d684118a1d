"""`search`."""

from cutaway.cli import units
from cutaway.cli.command import Command, Invocation
from cutaway.cli.filters import filters
from cutaway.cli.flags import Flag
from cutaway.cli.table import Row, show
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.flags import Values

WIDTH = 45
HEADINGS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}


def run_search(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`search TERM`, those with the most stars first."""
    from cutaway.cli.credentials import registry_header

    term = arguments[0]
    host, slash, _ = term.partition("/")
    domain = (
        host if slash and ("." in host or ":" in host or host == "localhost") else reference.DEFAULT_DOMAIN
    )
    query = {"term": term, "limit": str(values.number("limit", 25))} | filters(values.texts("filter"))
    headers = {"X-Registry-Auth": registry_header(domain)}
    response = invocation.client.request("GET", "/images/search", query, headers=headers)
    from cutaway.cli import jsontext

    found = jsontext.loads(response.read_all(), "the daemon's list of images") or []
    invocation.client.done(response)
    found = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    found.sort(key=lambda item: -int(item.get("star_count") or 0))
    form = values.text("format")
    rows = [_row(item, values.on("no-trunc")) for item in found]
    show(rows, HEADINGS, list(HEADINGS), "{{json .}}" if form == "json" else form)
    return 0


def _row(item: "dict[str, Any]", whole: bool) -> Row:
    text = str(item.get("description") or "").replace("\n", " ").replace("\r", " ")
    return Row(
        {
            "Name": lambda: str(item.get("name") or ""),
            "Description": lambda: text if whole else units.shorten(text, WIDTH),
            "StarCount": lambda: str(item.get("star_count") or 0),
            "IsOfficial": lambda: "[OK]" if item.get("is_official") else "",
            "IsAutomated": lambda: "[OK]" if item.get("is_automated") else "",
        }
    )


SEARCH = Command(
    run_search,
    "Search the Docker Hub for images",
    "TERM",
    least=1,
    most=1,
    flags=(
        Flag("filter", "f", "filter", "Only those that meet a condition (is-official=true, stars=3)"),
        Flag("format", "", "string", "Print each by a Go template; 'table TEMPLATE' with headings"),
        Flag("limit", "", "int", "How many at most", "25"),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
    ),
)
