"""What `-v` and `--mount` mean."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def volumes_of(specs: list[str]) -> "tuple[list[str], dict[str, dict[str, str]]]":
    """Binds and anonymous volumes for `-v`. A source that begins with `.` is made absolute here.

    Whether a specification is sound is the daemon's to say.
    """
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for spec in specs:
        source, colon, rest = spec.partition(":")
        if not colon:
            anonymous[spec] = {}
        elif source == "." or source.startswith(("./", "../")):
            binds.append(f"{os.path.abspath(source)}:{rest}")
        else:
            binds.append(spec)
    return binds, anonymous


_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive")


def mount_of(spec: str) -> "dict[str, Any]":
    """The API's Mount for `--mount type=bind,source=/a,target=/b,readonly`. Raises ValueError."""
    mount: dict[str, Any] = {"Type": "volume"}
    for part in spec.split(","):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals:
            if key not in _SWITCHES:
                raise ValueError(f"invalid field '{part}' must be a key=value pair")
            value = "true"
        _set(mount, key, value)
    if not mount.get("Target"):
        raise ValueError("target is required")
    return mount


def _set(mount: "dict[str, Any]", key: str, value: str) -> None:
    from cutaway.cli.values import boolean, size

    if key in ("type", "consistency"):
        mount[key.capitalize()] = value.lower()
    elif key in ("source", "src"):
        mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif key in ("target", "destination", "dst"):
        mount["Target"] = value
    elif key in ("readonly", "ro"):
        mount["ReadOnly"] = boolean(value)
    elif key == "bind-propagation":
        mount.setdefault("BindOptions", {})["Propagation"] = value
    elif key == "bind-nonrecursive":
        mount.setdefault("BindOptions", {})["NonRecursive"] = boolean(value)
    elif key == "volume-nocopy":
        mount.setdefault("VolumeOptions", {})["NoCopy"] = boolean(value)
    elif key == "tmpfs-size":
        mount.setdefault("TmpfsOptions", {})["SizeBytes"] = size(value)
    elif key == "tmpfs-mode":
        mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    else:
        raise ValueError(f"unexpected key '{key}' in '{key}={value}'")
