"""One controller's directory of one container."""

from cutaway.errors import CutawayError, FailedPrecondition
from cutaway.linux.cgroups import files


class Journal:
    """What files held before they were written, so that a change of which a part fails leaves nothing.

    Only files of one value can be put back; those of a line a device are left as they are.
    """

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: list[tuple[str, str]] = []

    def note(self, path: str) -> None:
        """Remember a file that is about to be written."""
        try:
            held = files.read(path).strip()
        except CutawayError:
            return  # it cannot be written either, and that will be said
        if held and "\n" not in held and ":" not in held:
            self._before.append((path, held))

    def put_back(self) -> None:
        """Undo the writes, last first: each state on the way is one that the kernel has accepted before."""
        for path, held in reversed(self._before):
            try:
                files.write(path, held)
            except CutawayError:
                continue  # the first failure is the one to be told
        self._before = []


class Controller:
    """Writes to a controller that is not there fail only when there is something to write."""

    __slots__ = ("directory", "journal", "name")

    def __init__(self, name: str, directory: str | None, journal: Journal | None = None) -> None:
        self.name = name
        self.directory = directory
        self.journal = journal

    def path(self, file: str) -> str:
        if self.directory is None:
            raise FailedPrecondition(
                f"cannot set {self.name} limit: container could not join or create cgroup"
            )
        return f"{self.directory}/{file}"

    def write(self, file: str, value: int | str) -> None:
        path = self.path(file)
        if self.journal is not None:
            self.journal.note(path)
        files.write(path, str(value))

    def write_if_set(self, file: str, value: int | str | None) -> None:
        """None, 0 and "" mean unset: dockerd sends shares and weights of 0 for "no wish"."""
        if value:
            self.write(file, value)

    def read_int(self, file: str) -> int:
        return files.read_int(self.path(file))

    def has(self, file: str) -> bool:
        return self.directory is not None and files.exists(f"{self.directory}/{file}")
