"""What will be executed, and with which environment, as the container's own files say."""

import os
import stat

from cutaway.errors import InvalidArgument, NotFound, PermissionDenied
from cutaway.linux import libc, paths
from cutaway.runc.plan.step import Here, Step

_EACCES = 13
_PASSWD_LIMIT = 1 << 20  # an honest /etc/passwd is smaller


class FindProgram(Step):
    """Look for the program while an error can still be the create's own."""

    __slots__ = ("name",)
    group = "privileges"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"find {self.name}"

    def command(self) -> str:
        return f"command -v {self.name}"

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.program = find_program(self.name, here.environment)


class SetEnvironment(Step):
    """Take the configuration's environment, and HOME from the container's own user list."""

    __slots__ = ("entries", "uid")
    group = "privileges"

    def __init__(self, entries: list[str], uid: int) -> None:
        self.entries = entries
        self.uid = uid

    def describe(self) -> str:
        return f"set {len(self.entries)} environment variables"

    def command(self) -> str:
        return "env -i ..."

    def failure(self, reason: str) -> str:
        return reason

    def execute(self, here: Here) -> None:
        here.environment = environment(self.entries)
        if not here.environment.get("HOME"):
            here.environment["HOME"] = home_of(self.uid)


def find_program(name: str, environment: dict[str, str]) -> str:
    """The file to execute, as the process's own PATH and rights find it.

    Raises `NotFound` and `PermissionDenied` in the words that callers of runc look for.
    """
    if "/" in name:
        _must_be_executable(name, name)
        return name
    for directory in environment.get("PATH", "").split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            _must_be_executable(name, path)
        except (NotFound, PermissionDenied):
            continue
        if not path.startswith("/"):
            raise NotFound(f'exec: "{name}": cannot run executable found relative to current directory')
        return path
    raise NotFound(f'exec: "{name}": executable file not found in $PATH')


def _must_be_executable(name: str, path: str) -> None:
    try:
        found = os.stat(path)
    except OSError as error:
        kind = PermissionDenied if error.errno == _EACCES else NotFound
        raise kind(f'exec: "{name}": stat {path}: {libc.words(error.errno or 0)}') from None
    if stat.S_ISDIR(found.st_mode) or not paths.may_execute(path):
        raise PermissionDenied(f'exec: "{name}": permission denied')


def environment(entries: list[str]) -> dict[str, str]:
    """The configuration's environment; a later entry wins. Raises `InvalidArgument`."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise InvalidArgument(f'invalid environment variable: "{entry}"')
        found[name] = value
    return found


def home_of(uid: int) -> str:
    """The user's home from the container's /etc/passwd, "/" without one.

    The file is the image's: it may be anything, so only a regular file is read, and not endlessly.
    """
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "/"
        text = os.read(fd, min(found.st_size or _PASSWD_LIMIT, _PASSWD_LIMIT))
    except OSError:
        return "/"
    finally:
        os.close(fd)
    for line in text.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == str(uid).encode():
            return os.fsdecode(fields[5]) or "/"
    return "/"
