"""Creating a container: `create`, and the first half of `run`."""

import os
import sys

from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.create_body import create_body
from cutaway.cli.failure import PREFIX, ExitWith, NoDaemon
from cutaway.cli.options import CONTAINER_FLAGS
from cutaway.errors import CutawayError, FailedPrecondition, InvalidArgument, NotFound, Unknown
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values

PULL_POLICIES = ("always", "missing", "never")


def run_create(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`create IMAGE [COMMAND] [ARG...]`: prints the ID."""
    try:
        print(create(invocation.client, values, arguments))
    except InvalidArgument as error:
        if error.message.startswith(PREFIX):
            raise
        raise refused(error, invocation.path) from None
    return 0


def create(client: "Client", values: "Values", arguments: list[str], *, detach: bool = False) -> str:
    """Create the container that the flags describe, pulling its image if need be; returns its ID.

    The daemon's warnings go to stderr.
    """
    policy = values.text("pull")
    if policy not in PULL_POLICIES:
        raise InvalidArgument(
            f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"'
        )
    if not reference.is_full_id(arguments[0]):
        reference.parse(arguments[0])
    body = create_body(values, arguments[0], arguments[1:], detach=detach)
    cidfile = _claim(values.text("cidfile"))
    try:
        identity = _create(client, values, body, policy)
    except BaseException:
        if cidfile:
            os.unlink(cidfile)
        raise
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(identity)
    return identity


def _create(client: "Client", values: "Values", body: "dict[str, Any]", policy: str) -> str:
    query = {key: values.text(key) for key in ("name", "platform") if values.text(key)}
    image = body["Image"]
    if policy == "always":
        _pull(client, image, values.text("platform"))
    try:
        created = client.call("POST", "/containers/create", query, body)
    except NotFound:
        if policy != "missing" or reference.is_full_id(image):
            raise
        wanted = reference.parse(image).with_default_tag()
        print(f"Unable to find image '{wanted.familiar}' locally", file=sys.stderr)
        _pull(client, image, values.text("platform"))
        created = client.call("POST", "/containers/create", query, body)
    if not isinstance(created, dict) or not created.get("Id"):
        raise Unknown("the daemon's answer to a create has no container ID in it")
    for warning in created.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    return str(created["Id"])


def _pull(client: "Client", image: str, platform: str) -> None:
    from cutaway.cli.pull import pull

    pull(client, reference.parse(image).with_default_tag(), platform, sys.stderr)


def _claim(path: str) -> str:
    """Make the --cidfile now, so that nobody else takes it and a bad path shows before a container exists."""
    if not path:
        return ""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except FileExistsError:
        raise FailedPrecondition(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        raise InvalidArgument(
            f"failed to create the container ID file: open {path}: {error.strerror}"
        ) from None
    return path


def refused(error: CutawayError, path: str, *, hint: bool = True, code: int = 125) -> ExitWith:
    """Say, as docker says it, why a container could not be made or started; the exit to raise."""
    program, _, name = path.partition(" ")
    sys.stdout.flush()
    print(f"{program}: {error.message.removesuffix('.')}.", file=sys.stderr)
    if hint and not isinstance(error, NoDaemon):
        print(f"See '{program} {name} --help'.", file=sys.stderr)
    return ExitWith(code)


CREATE = Command(
    run_create,
    "Create a new container",
    "IMAGE [COMMAND] [ARG...]",
    flags=CONTAINER_FLAGS,
    least=1,
    most=UNLIMITED,
    interspersed=False,
)
