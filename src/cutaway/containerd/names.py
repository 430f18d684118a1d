"""Names that cross the seam: identifiers, labels, digests. Rules and texts are containerd's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cutaway.errors import InvalidArgument, Unknown

MAX_IDENTIFIER = 76
MAX_LABEL = 4096

_PATTERN = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
_IDENTIFIER = re.compile(_PATTERN[:-1] + r"\Z")
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_ALGORITHM = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*\Z")
_HEX = re.compile(r"[a-f0-9]+\Z")


def validate(name: str) -> None:
    """Check the name of a namespace or container. Raises `InvalidArgument`."""
    if not name:
        raise InvalidArgument("identifier must not be empty: invalid argument")
    if len(name) > MAX_IDENTIFIER:
        raise InvalidArgument(
            f'identifier "{name}" greater than maximum length ({MAX_IDENTIFIER} characters): invalid argument'
        )
    if not _IDENTIFIER.match(name):
        raise InvalidArgument(f'identifier "{name}" must match {_PATTERN}: invalid argument')


def validate_labels(labels: Mapping[str, str], what: str) -> None:
    """Check the size of labels; `what` names the field.

    Raises `InvalidArgument`, and as containerd, which leaves it to its database, `Unknown` for an empty key.
    """
    require_keys(labels)
    for key, value in labels.items():
        if len(key.encode()) + len(value.encode()) > MAX_LABEL:
            raise InvalidArgument(
                f"{what}: label key and value greater than maximum size ({MAX_LABEL} bytes), "
                f"key: {key[:10]}: invalid argument"
            )


def require_keys(labels: Mapping[str, str]) -> None:
    """Raises `Unknown` for a label without a key, unless it is there to be removed."""
    if value := labels.get(""):
        raise Unknown(f'failed to set label ""="{value}": key required')


def digest_problem(digest: str) -> str:
    """What is wrong with a digest, in words, or "" for a good one."""
    algorithm, colon, value = digest.partition(":")
    if not colon or not _ALGORITHM.match(algorithm) or not value:
        return "invalid checksum digest format"
    if algorithm not in _HEX_LENGTH:
        return "unsupported digest algorithm"
    if len(value) != _HEX_LENGTH[algorithm]:
        return "invalid checksum digest length"
    return "" if _HEX.match(value) else "invalid checksum digest format"


def validate_digest(digest: str) -> None:
    """Check a digest that names content. Raises `InvalidArgument`."""
    if digest_problem(digest):
        raise InvalidArgument(f'"{digest}" failed validation')
