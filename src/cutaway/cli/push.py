"""`push`."""

import sys

from cutaway.cli.client import path_segment
from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.pull import Messages, show_plain
from cutaway.errors import InvalidArgument
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.cli.flags import Values


def run_push(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`push NAME[:TAG]`."""
    from cutaway.cli.credentials import registry_header

    wanted = reference.parse(arguments[0])
    quiet = values.on("quiet")
    if values.on("all-tags"):
        if wanted.tag or wanted.digest:
            raise InvalidArgument("tag can't be used with --all-tags/-a")
    elif not wanted.tag and not wanted.digest:
        wanted = wanted.with_default_tag()
        if not quiet:
            print("Using default tag: latest")
    if wanted.digest:
        raise InvalidArgument("cannot push a digest reference")
    query = {"tag": wanted.tag} if wanted.tag else {}
    headers = {"X-Registry-Auth": registry_header(wanted.domain) or "e30="}
    client = invocation.client
    response = client.request(
        "POST", f"/images/{path_segment(wanted.familiar_name)}/push", query, headers=headers
    )
    if quiet:
        for _ in Messages(response):
            continue
        print(str(wanted))
    elif sys.stdout.isatty():
        from cutaway.cli.progress import show_live

        show_live(Messages(response), sys.stdout)
    else:
        for message in Messages(response):
            show_plain(message, sys.stdout)
    client.done(response)
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
