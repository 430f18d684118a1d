"""`--change`: the Dockerfile instructions that alter an image's defaults, as commit and import take them.

Source: Docker's "Dockerfile reference", and the texts of its refusals.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cutaway.errors import InvalidArgument
from cutaway.oci.image_spec import ContainerConfig, Healthcheck

MAX_PORTS: Final = 65536
DEFAULT_SHELL: Final = ("/bin/sh", "-c")

_VARIABLE: Final = re.compile(r"\\(.)|\$(\w+)|\$\{(\w+)(?::([-+])([^}]*))?\}")
_UNITS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def apply(config: ContainerConfig, changes: Iterable[str]) -> ContainerConfig:
    """Apply instructions, one or more lines in each text, to a configuration; returns it.

    Raises `InvalidArgument` in Docker's words for those that cannot be, before any is applied.
    """
    lines = [line for text in changes for line in _lines(text)]
    parsed = []
    for line in lines:
        name, _, rest = line.partition(" ")
        instruction = _INSTRUCTIONS.get(name.upper())
        if instruction is None:
            raise InvalidArgument(f"{name.lower()} is not a valid change command")
        if not rest.strip():
            raise InvalidArgument(f"{name.upper()} requires at least one argument")
        parsed.append((instruction, rest.strip()))
    state = _State(config)
    for instruction, rest in parsed:
        instruction(state, rest)
    return config


def _lines(text: str) -> list[str]:
    joined = text.replace("\\\r\n", "").replace("\\\n", "")
    return [
        line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


@dataclass
class _State:
    config: ContainerConfig
    cmd_set: bool = False

    def expand(self, text: str) -> str:
        """Put environment variables in."""
        known = dict(entry.partition("=")[::2] for entry in self.config.env or [])

        def value(found: re.Match[str]) -> str:
            escaped, plain, braced, sign, other = found.groups()
            if escaped is not None:
                return str(escaped)
            current = known.get(plain or braced, "")
            if sign == "-":
                return current or str(other)
            if sign == "+":
                return str(other) if current else ""
            return current

        return _VARIABLE.sub(value, text)


def _json_list(text: str) -> list[str] | None:
    """The words of an instruction's JSON form, None if it is not in that form."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _command(state: _State, text: str) -> list[str]:
    words = _json_list(text)
    return words if words is not None else [*(state.config.shell or DEFAULT_SHELL), text]


def _cmd(state: _State, text: str) -> None:
    state.config.cmd = _command(state, text)
    state.cmd_set = True


def _entrypoint(state: _State, text: str) -> None:
    state.config.entrypoint = _command(state, text)
    if not state.cmd_set:
        state.config.cmd = None


def _words(text: str) -> list[str]:
    """Split at blanks outside of quotes; the quotes stay."""
    words, current, quote, escaped = [], "", "", False
    for character in text:
        if not quote and not escaped and character.isspace():
            if current:
                words.append(current)
            current = ""
            continue
        current += character
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
    return [*words, current] if current else words


def _unquoted(text: str) -> str:
    plain, quote, escaped = "", "", False
    for character in text:
        if escaped:
            plain += character if character in "\"'\\$ " else f"\\{character}"
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            plain += character
    return plain


def _pairs(state: _State, what: str, text: str) -> list[tuple[str, str]]:
    """`name=value ...`, or the old `name value`."""
    words = _words(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{what} must have two arguments")
        return [(state.expand(name), state.expand(value.strip()))]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(
                f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value"
            )
        literal = value.startswith("'")
        plain = _unquoted(value)
        pairs.append((_unquoted(name), plain if literal else state.expand(plain)))
    if any(not name for name, _ in pairs):
        raise InvalidArgument(f"{what} names can not be blank")
    return pairs


def _env(state: _State, text: str) -> None:
    env = list(state.config.env or [])
    for name, value in _pairs(state, "ENV", text):
        at = next((i for i, entry in enumerate(env) if entry.partition("=")[0] == name), len(env))
        env[at : at + 1] = [f"{name}={value}"]
    state.config.env = env


def _label(state: _State, text: str) -> None:
    state.config.labels = {**(state.config.labels or {}), **dict(_pairs(state, "LABEL", text))}


def _expose(state: _State, text: str) -> None:
    ports = dict(state.config.exposed_ports or {})
    for word in _words(state.expand(text)):
        found = _PORT.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not found or not first <= last < MAX_PORTS:
            raise InvalidArgument(f"Invalid containerPort: {word}")
        for port in range(first, last + 1):
            ports[f"{port}/{(found[3] or 'tcp').lower()}"] = {}
    state.config.exposed_ports = ports


def _volume(state: _State, text: str) -> None:
    named = _json_list(text)
    names = [state.expand(name) for name in (_words(text) if named is None else named)]
    if any(not name.strip() for name in names):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    state.config.volumes = {**(state.config.volumes or {}), **{name: {} for name in names}}


def _workdir(state: _State, text: str) -> None:
    state.config.working_dir = posixpath.normpath(
        posixpath.join("/", state.config.working_dir or "/", _unquoted(state.expand(text)))
    )


def _user(state: _State, text: str) -> None:
    state.config.user = state.expand(text)


def _on_build(state: _State, text: str) -> None:
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    state.config.on_build = [*(state.config.on_build or []), text]


def _health_check(state: _State, text: str) -> None:
    words = text.split(" ")
    options: dict[str, str] = {}
    while words and words[0].startswith("--"):
        name, _, value = words.pop(0)[2:].partition("=")
        options[name] = value
    kind, rest = (words[0].upper() if words else ""), " ".join(words[1:]).strip()
    if kind == "NONE":
        if rest:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        state.config.healthcheck = Healthcheck(test=["NONE"])
        return
    if kind != "CMD":
        raise InvalidArgument(f"Unknown type {json.dumps(kind)} in HEALTHCHECK (try CMD)")
    if not rest:
        raise InvalidArgument("Missing command after HEALTHCHECK CMD")
    command = _json_list(rest)
    check = Healthcheck(test=["CMD", *command] if command is not None else ["CMD-SHELL", rest])
    for name, value in options.items():
        _health_option(check, name, value)
    state.config.healthcheck = check


def _health_option(check: Healthcheck, name: str, value: str) -> None:
    if name == "interval":
        check.interval = _duration(name, value)
    elif name == "timeout":
        check.timeout = _duration(name, value)
    elif name == "start-period":
        check.start_period = _duration(name, value)
    elif name == "retries" and value.isdecimal() and int(value) >= 1:
        check.retries = int(value)
    elif name == "retries":
        raise InvalidArgument(f"--retries must be at least 1 (not {value})")
    else:
        raise InvalidArgument(f"Unknown flag: {name}")


def _duration(name: str, text: str) -> int:
    """Nanoseconds of a Go duration such as 1m30s."""
    parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise InvalidArgument(f"--{name}: time: invalid duration {json.dumps(text)}")
    total = int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if total < _UNITS["ms"]:
        raise InvalidArgument(f"Interval {json.dumps(name)} cannot be less than 1ms")
    return total


_INSTRUCTIONS: Final[dict[str, Callable[[_State, str], None]]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _health_check,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
