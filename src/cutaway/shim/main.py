"""The command line of `containerd-shim-cutaway-v1`."""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.shim.arguments import Arguments


def main(argv: list[str] | None = None) -> int:
    """Run a shim action; `argv` is without the program's name, which is sys.argv[0] in any case."""
    from cutaway.errors import CutawayError
    from cutaway.shim import arguments

    try:
        return _run(arguments.parse(sys.argv[1:] if argv is None else argv))
    except CutawayError as error:
        return _fail(error.message)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))


def _run(arguments: "Arguments") -> int:
    from cutaway.errors import InvalidArgument

    if arguments.switches & {"v", "version"}:
        return _version()
    if "info" in arguments.switches:
        from cutaway.shim.info import info

        return info(sys.argv[0])
    if not arguments["namespace"]:
        raise InvalidArgument("shim namespace cannot be empty")
    if arguments.action == "start":
        if not arguments["id"]:
            raise InvalidArgument("shim start: -id is needed")
        from cutaway.shim.start import start

        return start(arguments)
    if arguments.action == "delete":
        from cutaway.shim.cleanup import delete

        return delete(arguments, sys.argv[0])
    raise InvalidArgument(f"unknown action {arguments.action!r}: the actions are start and delete")


def _version() -> int:
    from cutaway import __version__

    print(f"{os.path.basename(sys.argv[0])}:\n  Version:  {__version__}\n")
    return 0


def _fail(message: str) -> int:
    """One line, without an end of line: containerd shows it inside one of its own."""
    os.write(2, f"{os.path.basename(sys.argv[0])}: {message}".encode())
    return 1


if __name__ == "__main__":
    sys.exit(main())
