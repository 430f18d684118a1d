"""Help texts, made from the same tables that the flags are read by."""

from cutaway.cli.command import Command
from cutaway.cli.index import COMMANDS, GROUP_SUMMARIES, GROUPED, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutaway.cli.flags import Flag

SUMMARY = "Containers, with every layer in view"


def program_help(program: str, flags: "Sequence[Flag]") -> str:
    """What `cutaway` alone and `cutaway --help` show."""
    groups = [(name, GROUP_SUMMARIES[name]) for name in GROUPS]
    commands = [(name, summary) for name, (_, _, summary) in COMMANDS.items()]
    parts = [
        f"\nUsage:  {program} [OPTIONS] COMMAND\n",
        f"{SUMMARY}\n",
        f"Options:\n{flag_table(flags)}\n",
        f"Management Commands:\n{_columns(groups)}\n",
        f"Commands:\n{_columns(commands)}\n",
        f"Run '{program} COMMAND --help' for more information on a command.",
    ]
    return "\n".join(parts)


def group_help(program: str, group: str) -> str:
    """What a management command alone shows."""
    seen: dict[str, str] = {}
    for name, target in GROUPS[group].items():
        seen[name] = (GROUPED.get(target) or COMMANDS[target])[2]
    return (
        f"\nUsage:  {program} {group} COMMAND\n\n{GROUP_SUMMARIES[group]}\n\n"
        f"Commands:\n{_columns(sorted(seen.items()))}\n\n"
        f"Run '{program} {group} COMMAND --help' for more information on a command."
    )


def command_help(command: Command, path: str) -> str:
    """What `COMMAND --help` shows."""
    text = f"\n{command.usage(path)}\n\n{command.summary}\n"
    return text + (f"\nOptions:\n{flag_table(command.flags)}" if command.flags else "")


def flag_table(flags: "Sequence[Flag]") -> str:
    """One line a flag: spelling, kind of value, what it does, default."""
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        left = f"-{flag.short}, --{flag.name}" if flag.short else f"    --{flag.name}"
        kind = "" if flag.kind == "bool" else f" {flag.kind}"
        default = f" (default {flag.default})" if flag.default and flag.kind != "bool" else ""
        rows.append((left + kind, flag.help + default))
    return _columns(rows)


def _columns(rows: "Sequence[tuple[str, str]]") -> str:
    import textwrap

    width = max(len(left) for left, _ in rows) + 2
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(30, 100 - width)) or [""]
        lines.append(f"  {left:{width}} {wrapped[0]}".rstrip())
        lines += [f"  {'':{width}} {more}" for more in wrapped[1:]]
    return "\n".join(lines)
