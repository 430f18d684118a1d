"""`--filter` as the API's `filters` parameter."""

from cutaway.cli import jsontext


def filters(given: list[str]) -> dict[str, str]:
    """A query with the filters (each checked when it was read), or an empty one."""
    found: dict[str, dict[str, bool]] = {}
    for item in given:
        name, _, value = item.partition("=")
        found.setdefault(name.strip().lower(), {})[value.strip()] = True
    return {"filters": jsontext.dumps(found)} if found else {}
