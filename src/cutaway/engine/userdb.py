"""Docker's `User` strings ("", "0", "name", "uid:gid", "name:group") looked up in an image.

The image's /etc/passwd and /etc/group are hostile: read through `open_in_root`, up to a size, and only in
the lines that are well-formed. A number that stands in passwd brings that entry's group and
supplementary groups with it; one that does not is taken as it is. So does dockerd.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cutaway.engine.rootfs_view import open_in_root
from cutaway.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted

LARGEST_FILE: Final = 8 << 20  # bytes
LARGEST_ID: Final = (1 << 31) - 1

_PASSWD, _GROUP = "etc/passwd", "etc/group"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process runs as. `additional_gids` does not repeat `gid`."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: frozenset[str]


def resolve(root: int, user: str, extra_groups: Iterable[str] = ()) -> Identity:
    """Who `user` is in the root file system of a descriptor; `extra_groups` are those of --group-add.

    Raises `InvalidArgument` in Docker's words for names without an entry and numbers out of range,
    `PermissionDenied` and `ResourceExhausted` for files that are no files or endless.
    """
    name, _, group = user.partition(":")
    found = _find_user(root, name)
    if found is None and name and not name.isdigit():
        raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")
    uid = found.uid if found else _checked_id(name or "0")
    gid, supplementary = found.gid if found else 0, []
    extra = list(extra_groups)
    if group or found or extra:
        groups = list(_groups(root))
        if group:
            gid = _group_id(groups, group)
        elif found:
            supplementary = [entry.gid for entry in groups if found.name in entry.members]
        supplementary += [_group_id(groups, wanted) for wanted in extra]
    others = tuple(dict.fromkeys(entry for entry in supplementary if entry != gid))
    return Identity(uid, gid, others, found.home if found else "/")


def _find_user(root: int, name: str) -> _User | None:
    """By number if it is one, else by name; root's entry for an empty name. The first match counts."""
    wanted = int(name) if _is_number(name) else 0 if not name else None
    for entry in _users(root):
        if entry.uid == wanted if wanted is not None else entry.name == name:
            return entry
    return None


def _group_id(groups: list[_Group], name: str) -> int:
    number = int(name) if _is_number(name) else None
    for entry in groups:
        if entry.gid == number if number is not None else entry.name == name:
            return entry.gid
    if not name.isdigit():
        raise InvalidArgument(f"unable to find group {name}: no matching entries in group file")
    return _checked_id(name)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _checked_id(text: str) -> int:
    if not _is_number(text) or int(text) > LARGEST_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{LARGEST_ID}")
    return int(text)


def _users(root: int) -> Iterator[_User]:
    """name:password:uid:gid:comment:home:shell (passwd(5))."""
    for fields in _lines(root, _PASSWD, 4):
        if _is_number(fields[2]) and _is_number(fields[3]):
            home = fields[5] if len(fields) > 5 else ""
            yield _User(fields[0], int(fields[2]), int(fields[3]), home or "/")


def _groups(root: int) -> Iterator[_Group]:
    """name:password:gid:member,member (group(5))."""
    for fields in _lines(root, _GROUP, 3):
        if _is_number(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            yield _Group(fields[0], int(fields[2]), frozenset(member.strip() for member in members))


def _lines(root: int, path: str, least: int) -> Iterator[list[str]]:
    """The fields of each line that has enough of them; none when the file does not exist."""
    for line in _read(root, path).decode("utf-8", "replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= least and fields[0] and not line.startswith("#"):
            yield fields


def _read(root: int, path: str) -> bytes:
    try:
        descriptor = open_in_root(root, path)
    except NotFound:
        return b""
    except PermissionDenied as error:
        raise PermissionDenied(f"the image's {error}") from None
    try:
        chunks, size = [], 0
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > LARGEST_FILE:
                raise ResourceExhausted(f"the image's {path} is larger than {LARGEST_FILE >> 20} MiB")
        return b"".join(chunks)
    finally:
        os.close(descriptor)
