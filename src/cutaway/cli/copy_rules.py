"""What a copied file or directory is called, by docker's rules, which are those of Unix's cp.

    source        destination            becomes
    file          existing directory     DEST/file
    file          existing file          DEST, replaced
    file          nothing there          DEST; with a slash at its end: refused
    directory     existing directory     DEST/directory; of `directory/.` what is in it
    directory     existing file          refused
    directory     nothing there          DEST

Paths are text here; whether the place is the host's or a container's makes no difference.
"""

import os
import posixpath
import stat

from cutaway.errors import FailedPrecondition, InvalidArgument, NotFound

MAX_LINKS = 10
# Go's os.FileMode, which the engine tells of a path.
GO_DIRECTORY, GO_SYMLINK, GO_DEVICE, GO_IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19


class Place:
    """One end of a copy."""

    def __init__(self, path: str, *, exists: bool = False, directory: bool = False, name: str = "") -> None:
        self.path = path
        self.exists = exists
        self.directory = directory
        self.name = name  # what it is to be called, if not by its path's last name


class Copy:
    """Where to extract, and what the archive's top is to be called instead of its own name."""

    def __init__(self, folder: str, rename: "tuple[str, str] | None") -> None:
        self.folder = folder
        self.rename = rename


def split_argument(argument: str) -> tuple[str, str]:
    """A container and a path in it, or "" and a path on the host."""
    container, colon, path = argument.partition(":")
    if argument.startswith("/") or not colon or container.startswith("."):
        return "", argument
    return container, path


def means_itself(path: str) -> bool:
    """Whether a path ends in `.`: what is in a directory, not the directory."""
    return base(path) == "."


def base(path: str) -> str:
    """The last name of a path, as Go's filepath.Base has it."""
    return path.rstrip("/").rpartition("/")[2] or ("/" if path else ".")


def clean(path: str) -> str:
    """The shortest path to the same, as Go's filepath.Clean has it."""
    cleaned = posixpath.normpath(path or ".")
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def keep_ending(cleaned: str, original: str) -> str:
    """Put back the slash or the dot at the end, which has a meaning."""
    if not means_itself(cleaned) and means_itself(original):
        cleaned = f"{cleaned.rstrip('/')}/."
    if original.endswith("/") and not cleaned.endswith("/"):
        cleaned += "/"
    return cleaned


def absolute(path: str) -> str:
    """A path of the host from its root."""
    return keep_ending(clean(os.path.join(os.getcwd(), path)), path)


def split_entry(path: str) -> tuple[str, str]:
    """The directory that holds a path, and its name there, `.` for what is in it."""
    cleaned = clean(path)
    if means_itself(path):
        cleaned += "/."
    return clean(cleaned.rpartition("/")[0] or ("/" if cleaned.startswith("/") else ".")), base(cleaned)


def renamed(path: str, resolved: str) -> tuple[str, str]:
    """What a followed link leads to, and the name it keeps because that is what was asked for."""
    resolved = keep_ending(resolved, path)
    return resolved, base(path) if base(path) != base(resolved) else ""


def source(path: str, follow: bool) -> Place:
    """A file or directory of the host. Raises `NotFound`, `InvalidArgument` in docker's words."""
    if follow:
        resolved, name = renamed(path, _real(path))
    else:
        folder, _, last = path.rpartition("/")
        above = _real(folder or "/")
        if not os.path.isdir(above):
            raise InvalidArgument("not a directory")
        resolved = f"{above.rstrip('/')}/{last}"
        moved = path.endswith("/") and base(path) != base(resolved)
        name = base(path) if moved else ""
    found = _lstat(resolved)
    return Place(resolved, exists=True, directory=stat.S_ISDIR(found.st_mode), name=name)


def destination(path: str) -> Place:
    """A place on the host, links followed; its directory must be there. Raises as `source`."""
    place = path
    for _ in range(MAX_LINKS + 1):
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            folder = split_entry(place)[0]
            if not stat.S_ISDIR(_stat(folder).st_mode):
                raise InvalidArgument("not a directory") from None
            return Place(place)
        except OSError as error:
            raise _refused("lstat", place, error) from None
        if not stat.S_ISLNK(found.st_mode):
            return Place(place, exists=True, directory=stat.S_ISDIR(found.st_mode))
        target = os.readlink(place)
        place = target if target.startswith("/") else clean(f"{split_entry(place)[0]}/{target}")
    raise InvalidArgument(f"too many symlinks in {path}")


def check_output(path: str) -> None:
    """Raise what docker says of a path of the host that nothing can be copied to."""
    folder = posixpath.dirname(clean(path))
    if folder not in ("", ".") and not os.path.exists(folder):
        raise NotFound(f'invalid output path: directory "{folder}" does not exist')
    if os.path.exists(path) and stat.S_IFMT(os.stat(path).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
        raise InvalidArgument(
            f'invalid output path: "{path}" must be a directory or a regular file: got a device'
        )


def plan(origin: Place, target: Place) -> Copy:
    """Where to extract the archive of `origin` so that it becomes `target`."""
    folder, name = split_entry(target.path)
    own = split_entry(origin.path)[1]
    if target.exists and target.directory:
        return Copy(target.path, None)
    if target.exists and origin.directory:
        raise FailedPrecondition("cannot copy directory")
    if not (target.exists or origin.directory) and (target.path.endswith("/") or means_itself(target.path)):
        raise NotFound("no such directory")
    return Copy(folder, (origin.name or own, name))


def _real(path: str) -> str:
    """All links followed, as Go's filepath.EvalSymlinks."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise _refused("lstat", str(error.filename or path), error) from None


def _lstat(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError as error:
        raise _refused("lstat", path, error) from None


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise _refused("stat", path, error) from None


def _refused(call: str, path: str, error: OSError) -> "NotFound | InvalidArgument":
    text = f"{call} {path}: {(error.strerror or '').lower()}"
    return NotFound(text) if isinstance(error, FileNotFoundError) else InvalidArgument(text)
