"""`cp`: files out of a container and into it."""

import os
import sys

from cutaway.cli import copy_rules
from cutaway.cli.client import path_segment
from cutaway.cli.command import Command, Invocation
from cutaway.cli.copy_rules import Place, split_argument
from cutaway.cli.flags import Flag
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unavailable, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cutaway.cli.client import Client
    from cutaway.cli.flags import Values
    from cutaway.cli.http import Response

TAR = {"Content-Type": "application/x-tar"}
STAT = "x-docker-container-path-stat"


def run_copy(invocation: Invocation, values: "Values", arguments: list[str]) -> int:
    """`cp CONTAINER:SRC DEST|-` and `cp SRC|- CONTAINER:DEST`."""
    for argument, name in zip(arguments, ("source", "destination"), strict=True):
        if not argument:
            raise InvalidArgument(f"{name} can not be empty")
    (origin, source), (target, destination) = map(split_argument, arguments)
    if origin and target:
        raise InvalidArgument("copying between containers is not supported")
    if origin:
        _from_container(_Container(invocation.client, origin), source, destination, values)
    elif target:
        _to_container(_Container(invocation.client, target), source, destination, values)
    else:
        raise InvalidArgument("must specify at least one container source")
    return 0


class _Container:
    """The archive API of one container."""

    def __init__(self, client: "Client", name: str) -> None:
        self.client = client
        self.name = name
        self.target = f"/containers/{path_segment(name)}/archive"

    def stat(self, path: str) -> "dict[str, Any]":
        """What a path is. Raises `NotFound` in docker's words."""
        response = self.client.request("HEAD", self.target, {"path": path}, missing=self._missing(path))
        self.client.done(response)
        return _stat_in(response)

    def get(self, path: str) -> "Response":
        """A path as a tar file; give it back by `client.done`."""
        return self.client.request("GET", self.target, {"path": path}, missing=self._missing(path))

    def put(self, path: str, content: "_Content", as_user: bool) -> None:
        query = [("copyUIDGID", "true")] if as_user else []
        query += [("noOverwriteDirNonDir", "true"), ("path", path)]
        response = self.client.upload(
            self.target, query, content, method="PUT", headers=TAR, missing=self._missing(path)
        )
        response.read_all()
        self.client.done(response)

    def _missing(self, path: str) -> str:
        return f"container:path: {self.name}:{path}"


def _stat_in(response: "Response") -> "dict[str, Any]":
    """The header that says what a path is: JSON in base64."""
    import base64
    import json

    try:
        found = json.loads(base64.b64decode(response.headers.get(STAT, "")))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unknown("unable to decode container path stat header")
    return found


def _mode(found: "dict[str, Any]") -> int:
    mode = found.get("mode")
    return mode if isinstance(mode, int) else 0


def _link(found: "dict[str, Any]", path: str) -> str:
    """Where a link leads, "" if it is none."""
    target = str(found.get("linkTarget") or "")
    if not _mode(found) & copy_rules.GO_SYMLINK or not target:
        return ""
    if target.startswith("/"):
        return target
    return copy_rules.clean(f"{copy_rules.split_entry(path)[0]}/{target}")


def _from_container(container: _Container, source: str, destination: str, values: "Values") -> None:
    if destination != "-":
        destination = copy_rules.absolute(destination)
        copy_rules.check_output(destination)
    name = ""
    if values.on("follow-link"):
        try:
            link = _link(container.stat(source), source)
        except Unavailable:
            raise
        except CutawayError:
            link = ""
        if link:
            source, name = copy_rules.renamed(source, link)
    response = container.get(source)
    if destination == "-":
        while data := response.read():
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        directory = bool(_mode(_stat_in(response)) & copy_rules.GO_DIRECTORY)
        _extract(response, Place(source, exists=True, directory=directory, name=name), destination)
    container.client.done(response)


def _extract(response: "Response", origin: Place, destination: str) -> None:
    """Unpack an archive on the host. It comes out of a container: nothing in it leads out of the folder."""
    from cutaway.archive.unpacking import Rules, unpack

    copied = copy_rules.plan(origin, copy_rules.destination(destination))
    own = copy_rules.split_entry(origin.path)[1]
    renames = [(own, origin.name)] if origin.name else []
    renames += [copied.rename] if copied.rename else []
    try:
        folder = os.open(copied.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"open {copied.folder}: {(error.strerror or '').lower()}") from None
    try:
        unpack(response, folder, "/", Rules(keep_types=True, own=False, renames=tuple(renames)))
    finally:
        os.close(folder)
    while response.read():  # what fills up the archive's last record
        pass


class _Content:
    """What is sent: an iterator's pieces, read as from a file."""

    def __init__(self, pieces: "Iterator[bytes]") -> None:
        self._pieces = pieces

    def read(self, size: int = -1, /) -> bytes:
        return next(self._pieces, b"")


def _standard_input() -> "Iterator[bytes]":
    while data := os.read(0, 1 << 18):
        yield data


def _to_container(container: _Container, source: str, destination: str, values: "Values") -> None:
    if source != "-":
        source = copy_rules.absolute(source)
    target = _target(container, destination)
    as_user = values.on("archive")
    if source == "-":
        if not target.directory:
            raise InvalidArgument(f'destination "{container.name}:{destination}" must be a directory')
        container.put(target.path, _Content(_standard_input()), as_user)
        return
    from cutaway.archive.packing import pack

    origin = copy_rules.source(source, values.on("follow-link"))
    try:
        item = os.open(origin.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"lstat {origin.path}: {(error.strerror or '').lower()}") from None
    try:
        copied = copy_rules.plan(origin, target)
        name = copied.rename[1] if copied.rename else origin.name or copy_rules.split_entry(origin.path)[1]
        container.put(copied.folder, _Content(pack(item, "" if name == "/" else name)), as_user)
    finally:
        os.close(item)


def _target(container: _Container, destination: str) -> Place:
    """What is at a path of the container now; whatever is wrong with it, the copy itself will tell."""
    path = destination
    try:
        found = container.stat(path)
        if link := _link(found, path):
            path = link
            found = container.stat(path)
    except Unavailable:
        raise
    except CutawayError:
        return Place(path)
    mode = _mode(found)
    for bit, what in ((copy_rules.GO_DEVICE, "a device"), (copy_rules.GO_IRREGULAR, "an irregular file")):
        if mode & bit:
            place = f'destination "{container.name}:{destination}"'
            raise InvalidArgument(f"{place} must be a directory or a regular file: got {what}")
    return Place(path, exists=True, directory=bool(mode & copy_rules.GO_DIRECTORY))


COPY = Command(
    run_copy,
    "Copy files/folders between a container and the local filesystem",
    "CONTAINER:SRC_PATH DEST_PATH|-\n\tcutaway cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    least=2,
    most=2,
    flags=(
        Flag("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
        Flag("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
        Flag("quiet", "q", "bool", "Accepted: no progress is shown anyway"),
    ),
)
