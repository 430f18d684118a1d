"""Images and root file systems as tar files: `save`, `load`, `import`, `export`."""

import os
import sys

from cutaway.cli.client import path_segment
from cutaway.cli.command import UNLIMITED, Command, Invocation
from cutaway.cli.flags import Flag
from cutaway.cli.pull import show
from cutaway.errors import InvalidArgument, Unknown
from cutaway.registry import reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from cutaway.cli.flags import Values
    from cutaway.cli.http import Response

TAR = {"Content-Type": "application/x-tar"}


def run_save(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`save IMAGE...`: to a file or to standard output, if that is no terminal."""
    output = _output(values, "failed to save image")
    query = [("names", name) for name in arguments]
    response = invocation.client.request("GET", "/images/get", query)
    _receive(response, output)
    invocation.client.done(response)
    return 0


def run_export(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`export CONTAINER`: its root file system."""
    output = _output(values, "failed to export container")
    name = arguments[0]
    response = invocation.client.request("GET", f"/containers/{path_segment(name)}/export")
    _receive(response, output)
    invocation.client.done(response)
    return 0


def _output(values: "Values", failure: str) -> str:
    """The file to write to, "" for standard output. Raises `InvalidArgument` before anything is asked for."""
    output = values.text("output")
    if not output and sys.stdout.isatty():
        raise InvalidArgument("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(os.path.normpath(output)) if output else ""
    if folder and not os.path.isdir(folder):
        raise InvalidArgument(f'{failure}: invalid output path: directory "{folder}" does not exist')
    if output and os.path.isdir(output):
        raise InvalidArgument(f'{failure}: invalid output path: "{output}" must be a file, not a directory')
    return output


def _receive(response: "Response", output: str) -> None:
    """Write a body to standard output, or to a file that appears once it is whole."""
    if not output:
        _copy(response, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    temporary = os.path.join(os.path.dirname(output), f".cutaway_temp_{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            _copy(response, file)
        if os.path.exists(output) and not os.path.isfile(output):
            with open(temporary, "rb") as file, open(output, "wb") as special:  # a device or a FIFO
                while data := file.read(1 << 20):
                    special.write(data)
        else:
            os.replace(temporary, output)
            return
    except OSError as error:
        raise Unknown(f"{output}: {error.strerror}") from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _copy(response: "Response", target: "BinaryIO") -> None:
    while data := response.read():
        target.write(data)


def run_load(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`load`: from a file or from standard input."""
    name = values.text("input")
    if not name and sys.stdin.isatty():
        raise InvalidArgument("requested load from stdin, but stdin is empty")
    live = sys.stdout.isatty() and not values.on("quiet")
    with _source(name or "-") as source:
        response = invocation.client.upload(
            "/images/load", {"quiet": "0" if live else "1"}, source, headers=TAR
        )
        show(response, sys.stdout, live=live)
    invocation.client.done(response)
    return 0


def run_import(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`import file|URL|- [REPOSITORY[:TAG]]`: prints the new image's ID."""
    origin, *names = arguments
    query = [("fromSrc", origin), ("message", values.text("message"))]
    if names:
        named = reference.parse(names[0])
        query += [("repo", named.familiar_name), ("tag", named.tag)]
    query += [("changes", change) for change in values.texts("change")]
    if values.text("platform"):
        query.append(("platform", values.text("platform")))
    if "://" in origin:
        response = invocation.client.request("POST", "/images/create", query)
    else:
        query[0] = ("fromSrc", "-")
        with _source(origin) as source:
            response = invocation.client.upload("/images/create", query, source, headers=TAR)
    show(response, sys.stdout, live=False)
    invocation.client.done(response)
    return 0


def _source(name: str) -> "BinaryIO":
    """A file, or standard input for `-`. Raises `InvalidArgument`."""
    if name == "-":
        return os.fdopen(os.dup(0), "rb", buffering=0)
    try:
        return open(name, "rb", buffering=0)
    except OSError as error:
        raise InvalidArgument(f"open {name}: {(error.strerror or '').lower()}") from None


SAVE = Command(
    run_save,
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "IMAGE [IMAGE...]",
    least=1,
    most=UNLIMITED,
    flags=(Flag("output", "o", "string", "Write to a file, instead of STDOUT"),),
)
LOAD = Command(
    run_load,
    "Load an image from a tar archive or STDIN",
    flags=(
        Flag("input", "i", "string", "Read from a tar file, instead of STDIN"),
        Flag("quiet", "q", "bool", "Show no progress"),
    ),
)
IMPORT = Command(
    run_import,
    "Import the contents from a tarball to create a filesystem image",
    "file|URL|- [REPOSITORY[:TAG]]",
    least=1,
    most=UNLIMITED,
    flags=(
        Flag("change", "c", "list", "Apply a Dockerfile instruction to the image"),
        Flag("message", "m", "string", "Comment of the image"),
        Flag("platform", "", "string", "Platform of the image, e.g. linux/arm64"),
    ),
)
EXPORT = Command(
    run_export,
    "Export a container's filesystem as a tar archive",
    "CONTAINER",
    least=1,
    most=1,
    flags=(Flag("output", "o", "string", "Write to a file, instead of STDOUT"),),
)
