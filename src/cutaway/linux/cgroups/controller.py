"""One controller's directory of one container."""

from cutaway.errors import FailedPrecondition
from cutaway.linux.cgroups import files


class Controller:
    """Writes to a controller that is not there fail only when there is something to write."""

    __slots__ = ("directory", "name")

    def __init__(self, name: str, directory: str | None) -> None:
        self.name = name
        self.directory = directory

    def path(self, file: str) -> str:
        if self.directory is None:
            raise FailedPrecondition(
                f"cannot set {self.name} limit: this machine has no {self.name} cgroup controller mounted"
            )
        return f"{self.directory}/{file}"

    def write(self, file: str, value: int | str) -> None:
        files.write(self.path(file), str(value))

    def write_if_set(self, file: str, value: int | str | None) -> None:
        """None, 0 and "" mean unset: dockerd sends shares and weights of 0 for "no wish"."""
        if value:
            self.write(file, value)

    def read_int(self, file: str) -> int:
        return files.read_int(self.path(file))

    def has(self, file: str) -> bool:
        return self.directory is not None and files.exists(f"{self.directory}/{file}")
