"""The `cutaway` program: global flags, finding the command, and turning errors into text and exit code.

    argv ──▶ global flags ──▶ command ──▶ its flags ──▶ its function ──▶ exit code
                                │
              index.py: name -> module, loaded only now

Speed is a feature here: what this module and its imports cost is paid by every command (budget 15 ms
over the bare interpreter), so modules are loaded where they are used.
"""

import os
import sys

from cutaway.cli.failure import ExitWith, UsageError, exit_code
from cutaway.cli.flags import Flag, HelpWanted, parse
from cutaway.cli.index import COMMANDS, GROUPED, GROUPS
from cutaway.errors import CutawayError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cutaway.cli.client import Client
    from cutaway.cli.command import Command
    from cutaway.cli.flags import Values

PROGRAM = "cutaway"
DEFAULT_SOCKET = "/run/cutaway/cutaway.sock"

GLOBAL_FLAGS = (
    Flag("config", "", "string", "Folder of the client's settings", "~/.docker"),
    Flag("debug", "D", "bool", "Show a traceback for an error"),
    Flag("host", "H", "list", "The daemon's socket (unix:///path)"),
    Flag("log-level", "l", "string", "Accepted and ignored"),
    Flag("version", "v", "bool", "Show the version and end"),
)


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit code. With `argv` None, sys.argv counts."""
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _guarded(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone: end as a program that does not know of Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _die_by("SIGPIPE")
        return 141
    except KeyboardInterrupt:
        _die_by("SIGINT")
        return 130
    if argv is None:
        _leave(code)
    return code


def _leave(code: int) -> "NoReturn":
    """End the process without taking the interpreter down piece by piece: nothing here needs that, and it
    costs 3 ms."""
    sys.stderr.flush()
    os._exit(code)


def _guarded(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except ExitWith as end:
        return end.code
    except CutawayError as error:
        sys.stdout.flush()
        if "-D" in words[:1] or "--debug" in words[:1]:
            import traceback

            traceback.print_exc()
        print(error.message, file=sys.stderr)
        if isinstance(error, UsageError) and error.usage:
            print(error.usage, file=sys.stderr)
        return exit_code(error)


def _die_by(name: str) -> None:
    import signal

    from cutaway.cli.loop import die_by

    die_by(signal.Signals[name])


def _dispatch(words: list[str]) -> int:
    try:
        values, arguments = parse(GLOBAL_FLAGS, words, interspersed=False)
    except HelpWanted:
        return _print_help()
    except UsageError as error:
        usage = f"Usage:  {PROGRAM} [OPTIONS] COMMAND"
        raise UsageError(f"{error.message}\nSee '{PROGRAM} --help'.", usage=usage) from None
    if values.on("version"):
        from cutaway import __version__

        print(f"Cutaway version {__version__}")
        return 0
    if not arguments or arguments == ["help"]:
        return _print_help()
    if values.given("config"):
        os.environ["DOCKER_CONFIG"] = values.text("config")
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    return _command(values, arguments, words)


def _command(values: "Values", arguments: list[str], words: list[str]) -> int:
    path, rest, command = _find(arguments)
    if command is None:
        from cutaway.cli.help import group_help

        if rest and rest[0] != "--help":
            raise UsageError(f"{group_help(PROGRAM, path)}")
        print(group_help(PROGRAM, path))
        return 0
    from cutaway.cli.command import Invocation

    invocation = Invocation(f"{PROGRAM} {path}", _client(values), [PROGRAM, *words])
    try:
        return command.run(invocation, rest)
    except HelpWanted:
        from cutaway.cli.help import command_help

        print(command_help(command, invocation.path))
        return 0


def _find(arguments: list[str]) -> "tuple[str, list[str], Command | None]":
    """The command's path, the words after it, and the command; None for a group without one."""
    name, rest = arguments[0], arguments[1:]
    if name in COMMANDS:
        return name, rest, _load(COMMANDS[name])
    if name not in GROUPS:
        usage = f"Usage:  {PROGRAM} [OPTIONS] COMMAND"
        raise UsageError(
            f"{PROGRAM}: '{name}' is not a {PROGRAM} command.\nSee '{PROGRAM} --help'", usage=usage
        )
    target = GROUPS[name].get(rest[0]) if rest else None
    if target is None:
        return name, rest, None
    return f"{name} {rest[0]}", rest[1:], _load(GROUPED.get(target) or COMMANDS[target])


def _load(entry: tuple[str, str, str]) -> "Command":
    module, attribute, _ = entry
    command: Command = getattr(__import__(f"cutaway.cli.{module}", fromlist=[attribute]), attribute)
    return command


def _print_help() -> int:
    from cutaway.cli.help import program_help

    print(program_help(PROGRAM, GLOBAL_FLAGS))
    return 0


def _client(values: "Values") -> "Client":
    """A client of the daemon that -H, DOCKER_HOST or the default names."""
    from cutaway.cli.client import Client

    hosts = values.texts("host")
    if len(hosts) > 1:
        raise UsageError("Please specify only one -H")
    host = hosts[0] if hosts else os.environ.get("DOCKER_HOST", "")
    if not host:
        return Client(DEFAULT_SOCKET, may_start=True)
    return Client(socket_of(host))


def socket_of(host: str) -> str:
    """The socket's path in `unix:///path`. Raises `UsageError` for every other kind of host."""
    scheme, colon, path = host.partition("://")
    if colon and scheme == "unix" and path:
        return path
    if scheme in ("tcp", "http", "https", "ssh", "fd", "npipe"):
        raise UsageError(
            f"Cannot connect to the Cutaway daemon at {host}: {scheme} is not supported, only a Unix socket "
            f"is (-H unix://{DEFAULT_SOCKET}); over TCP without TLS anybody on the network would be root"
        )
    raise UsageError(f"unable to parse docker host `{host}`: expected unix:///path/to/socket")
