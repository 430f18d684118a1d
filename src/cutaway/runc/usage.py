"""Help texts, made from the tables of commands and options. Loaded only when shown."""

from cutaway.runc.commands import COMMANDS, GLOBAL
from cutaway.runc.options import FLAG, Option

NAME = "cutaway-runc"


def general() -> str:
    """The help of the program."""
    commands = [(name, command.summary) for name, command in sorted(COMMANDS.items())]
    return (
        f"NAME:\n   {NAME} - Open Container Initiative runtime\n\n"
        f"USAGE:\n   {NAME} [global options] command [command options] [arguments...]\n\n"
        f"COMMANDS:\n{_columns(commands)}\n\n"
        f"GLOBAL OPTIONS:\n{_columns([_row(option) for option in GLOBAL])}\n"
    )


def of_command(name: str) -> str:
    """The help of one command."""
    command = COMMANDS[name]
    usage = " ".join(part for part in (NAME, name, "[command options]", command.arguments) if part)
    options = _columns([_row(option) for option in command.options])
    return f"NAME:\n   {NAME} {name} - {command.summary}\n\nUSAGE:\n   {usage}\n\nOPTIONS:\n{options}\n"


def _row(option: Option) -> tuple[str, str]:
    value = "" if option.kind == FLAG else " value"
    names = (f"{'--' if len(name) > 1 else '-'}{name}{value}" for name in option.names)
    return ", ".join(names), option.help


def _columns(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"   {left.ljust(width)}  {right}" for left, right in rows)
