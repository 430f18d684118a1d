"""The client's settings, `config.json` in $DOCKER_CONFIG or ~/.docker, which docker and cutaway share.

What is in it and means nothing here stays as it is when the file is written.
"""

import os
import sys

from cutaway.cli import jsontext
from cutaway.errors import CutawayError, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ConfigFile:
    """The settings as they were read; `save` writes what has been changed in them."""

    def __init__(self, path: str, settings: "dict[str, Any]") -> None:
        self.path = path
        self.settings = settings

    def table(self, name: str) -> "dict[str, Any]":
        """An object in the settings; an empty one where there is none."""
        found = self.settings.get(name)
        return found if isinstance(found, dict) else {}

    def text(self, name: str) -> str:
        """A string in the settings, or ""."""
        found = self.settings.get(name)
        return found if isinstance(found, str) else ""

    def save(self) -> None:
        """Write the file by rename, for the user alone, through a link. Raises `PermissionDenied`."""
        target = os.path.realpath(self.path)
        new = f"{target}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    file.write(jsontext.pretty(self.settings, indent="\t"))
                    file.flush()
                    os.fsync(fd)
                os.rename(new, target)
            except BaseException:
                os.unlink(new)
                raise
        except OSError as error:
            raise PermissionDenied(f"{self.path} cannot be written: {error.strerror}") from None


def load() -> ConfigFile:
    """Read the file. One that is not there is empty, and so, with a warning as docker's, is a broken one."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = f"{folder}/config.json"
    try:
        with open(path, "rb") as file:
            settings = jsontext.loads(file.read(), path)
        if not isinstance(settings, dict):
            raise PermissionDenied(f"{path} is not a JSON object")
    except FileNotFoundError:
        settings = {}
    except (OSError, CutawayError) as error:
        print(f"WARNING: Error loading config file: {error}", file=sys.stderr)
        settings = {}
    return ConfigFile(path, settings)
