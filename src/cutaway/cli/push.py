"""`push`."""

import sys

from cutaway.cli.client import path_segment
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.pull import meant, show
from cutaway.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values


def run_push(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`push NAME[:TAG]`."""
    from cutaway.cli.credentials import registry_header

    wanted = meant(arguments[0], values)
    if wanted.digest:
        raise InvalidArgument("cannot push a digest reference")
    query = {"tag": wanted.tag} if wanted.tag else {}
    headers = {"X-Registry-Auth": registry_header(wanted.domain)}
    client, quiet = invocation.client, values.on("quiet")
    response = client.request(
        "POST", f"/images/{path_segment(wanted.familiar_name)}/push", query, headers=headers
    )
    try:
        show(response, sys.stdout, quiet=quiet)
    finally:
        client.done(response)
    if quiet:
        print(str(wanted))
    return 0


PUSH = Command(
    run_push,
    "Push an image or a repository to a registry",
    "NAME[:TAG]",
    least=1,
    most=1,
    flags=(
        Flag("all-tags", "a", "bool", "Push all tagged images of the repository"),
        Flag("disable-content-trust", "", "bool", "Accepted and ignored", "true"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
)
