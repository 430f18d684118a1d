"""Environment variables and labels, from flags and from files."""

import os

from cutaway.errors import InvalidArgument


def environment(files: list[str], given: list[str]) -> list[str]:
    """`NAME=value` for each variable: those of the files first, then those of `-e`.

    A name without a value takes ours; `-e NAME` without one of ours tells the daemon to drop the
    image's. Raises `InvalidArgument` for an empty name and an unreadable file.
    """
    found: list[str] = []
    for file in files:
        found += _from_file(file)
    for item in given:
        name, equals, _ = item.partition("=")
        found.append(item if equals or name not in os.environ else f"{name}={os.environ[name]}")
    return found


def _from_file(path: str) -> list[str]:
    found: list[str] = []
    for line in read_lines(path):
        text = line.lstrip()
        if not text or text.startswith("#"):
            continue
        name, equals, _ = text.partition("=")
        if not name:
            raise InvalidArgument(f"no variable name on line '{text}'")
        if any(char.isspace() for char in name):
            raise InvalidArgument(f"poorly formatted environment: variable '{name}' contains whitespaces")
        if equals:
            found.append(text)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def read_lines(path: str) -> list[str]:
    """A file's lines without their ends. Raises `InvalidArgument` with the system's reason."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except OSError as error:
        raise InvalidArgument(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"env file {path} contains invalid utf8 bytes") from None


def labels(files: list[str], given: list[str]) -> dict[str, str]:
    """Labels of the files, then of `-l`; one without a value is empty."""
    lines = [line.strip() for file in files for line in read_lines(file)]
    return pairs([line for line in lines if line and not line.startswith("#")] + given)


def pairs(items: list[str]) -> dict[str, str]:
    """`key=value` items as a mapping."""
    return {item.partition("=")[0]: item.partition("=")[2] for item in items}
