"""What a command is: its flags, its arguments and the function that carries it out."""

from cutaway.cli.failure import UsageError
from cutaway.cli.flags import Flag, Values, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutaway.cli.client import Client

UNLIMITED = -1


class Invocation:
    """One call of the program: what was typed before the command's own flags, and the daemon to ask."""

    def __init__(self, path: str, client: "Client", words: list[str]) -> None:
        self.path = path  # "cutaway container ls"
        self.client = client
        self.words = words  # the whole command line

    @property
    def program(self) -> str:
        return self.path.partition(" ")[0]


class Command:
    """A command's table entry; `most` arguments, or UNLIMITED."""

    __slots__ = ("arguments", "flags", "function", "interspersed", "least", "most", "summary")

    def __init__(
        self,
        function: "Callable[[Invocation, Values, list[str]], int]",
        summary: str,
        arguments: str = "",
        *,
        flags: "Sequence[Flag]" = (),
        least: int = 0,
        most: int = 0,
        interspersed: bool = True,
    ) -> None:
        self.function = function
        self.summary = summary
        self.arguments = arguments
        self.flags = flags
        self.least = least
        self.most = most
        self.interspersed = interspersed

    def usage(self, path: str) -> str:
        """The line that help and refusals show."""
        words = [path, "[OPTIONS]" if self.flags else "", self.arguments]
        return f"Usage:  {' '.join(word for word in words if word)}"

    def run(self, invocation: Invocation, argv: list[str]) -> int:
        """Read the flags and do it; returns the exit code. Raises `UsageError` and `HelpWanted`."""
        path = invocation.path
        try:
            values, arguments = parse(self.flags, argv, interspersed=self.interspersed)
        except UsageError as error:
            raise UsageError(f"{error.message}\nSee '{path} --help'.", usage=self.usage(path)) from None
        self._count(arguments, path)
        return self.function(invocation, values, arguments)

    def _count(self, arguments: list[str], path: str) -> None:
        count = len(arguments)
        if count >= self.least and (self.most == UNLIMITED or count <= self.most):
            return
        if self.most == 0:
            wanted = "accepts no arguments."
        elif self.least == self.most:
            wanted = f"requires exactly {_arguments(self.least)}."
        elif self.least > 0 and self.most != UNLIMITED:
            wanted = f"requires at least {self.least} and at most {_arguments(self.most)}."
        elif count < self.least:
            wanted = f"requires at least {_arguments(self.least)}."
        else:
            wanted = f"requires at most {_arguments(self.most)}."
        text = f"\"{path}\" {wanted}\nSee '{path} --help'.\n\n{self.usage(path)}\n\n{self.summary}"
        raise UsageError(text, exit_code=1)


def _arguments(count: int) -> str:
    return f"{count} argument" if count == 1 else f"{count} arguments"
