"""Fetching images: `pull`, and what `run` and `create` do when an image is missing."""

import sys

from cutaway.cli.command import Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.errors import InvalidArgument, Unknown
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values
    from cutaway.cli.http import Response


def run_pull(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`pull NAME[:TAG|@DIGEST]`."""
    wanted = meant(arguments[0], values)
    pull(invocation.client, wanted, values.text("platform"), sys.stdout, quiet=values.on("quiet"))
    print(str(wanted))
    return 0


def meant(text: str, values: "Values") -> reference.Reference:
    """The image that is named, with the default tag, or with --all-tags the repository; says what it adds.

    Raises `InvalidArgument`.
    """
    wanted = reference.parse(text)
    if values.on("all-tags"):
        if wanted.tag or wanted.digest:
            raise InvalidArgument("tag can't be used with --all-tags/-a")
    elif not wanted.tag and not wanted.digest:
        wanted = wanted.with_default_tag()
        if not values.on("quiet"):
            print("Using default tag: latest")
    return wanted


def pull(
    client: "Client", wanted: reference.Reference, platform: str, out: "TextIO", *, quiet: bool = False
) -> None:
    """Have the daemon pull, and show its progress on `out`. Raises what the daemon reports."""
    from cutaway.cli.credentials import registry_header

    query = {"fromImage": wanted.familiar_name if wanted.domain == reference.DEFAULT_DOMAIN else wanted.name}
    if wanted.digest or wanted.tag:
        query["tag"] = wanted.digest or wanted.tag
    if platform:
        query["platform"] = platform
    headers = {"X-Registry-Auth": registry_header(wanted.domain)}
    response = client.request("POST", "/images/create", query, headers=headers)
    try:
        show(response, out, quiet=quiet)
    finally:
        client.done(response)


def show(response: "Response", out: "TextIO", *, quiet: bool = False, live: bool = True) -> None:
    """Show a progress stream: redrawn on a terminal if `live`, line by line elsewhere, not at all if `quiet`.

    Raises what the daemon reports.
    """
    messages = Messages(response)
    if quiet:
        for _ in messages:
            continue
    elif live and out.isatty():
        from cutaway.cli.progress import show_live

        show_live(messages, out)
    else:
        for message in messages:
            show_plain(message, out)


class Messages:
    """The objects of a progress stream. Raises `Unknown` for the error that ends it."""

    def __init__(self, response: "Response") -> None:
        self._lines = response.lines()

    def __iter__(self) -> "Messages":
        return self

    def __next__(self) -> "dict[str, Any]":
        message = self._next()
        while "aux" in message:  # for programs
            message = self._next()
        return message

    def _next(self) -> "dict[str, Any]":
        from cutaway.cli import jsontext

        message = jsontext.loads(next(self._lines), "the daemon's progress report")
        if not isinstance(message, dict):
            raise Unknown("the daemon's progress report is not made of objects")
        detail = message.get("errorDetail")
        if detail or message.get("error"):
            text = detail.get("message") if isinstance(detail, dict) else None
            raise Unknown(str(text or message.get("error")))
        return message


def show_plain(message: "dict[str, Any]", out: "TextIO") -> None:
    """One line for each change of state; running totals are left out, as docker does off a terminal."""
    detail = message.get("progressDetail")
    if isinstance(detail, dict) and detail.get("current"):
        return
    text = message.get("stream")
    if isinstance(text, str):
        out.write(text)
    else:
        name = f"{message['id']}: " if message.get("id") else ""
        out.write(f"{name}{message.get('status', '')}\n")
    out.flush()


PULL = Command(
    run_pull,
    "Pull an image or a repository from a registry",
    "NAME[:TAG|@DIGEST]",
    least=1,
    most=1,
    flags=(
        Flag("all-tags", "a", "bool", "Fetch all tagged images of the repository"),
        Flag("disable-content-trust", "", "bool", "Accepted and ignored", "true"),
        Flag("platform", "", "string", "Platform of the image, e.g. linux/arm64"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
)
