"""Platforms: how `--platform` is written, what this machine is, and which entry of an index fits best.

Source: image-spec "image-index.md" (platform) and containerd's matching order of variants.
"""

from __future__ import annotations

import os
from typing import Final

from cutaway.errors import InvalidArgument, NotFound
from cutaway.oci.image_spec import Descriptor, Index, Platform

ATTESTATION: Final = "vnd.docker.reference.type"

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
_DEFAULT_VARIANT: Final = {"arm64": "v8", "arm": "v7"}
_SYSTEMS: Final = frozenset(("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "wasi", "wasip1"))
_KNOWN: Final = frozenset(
    ("amd64", "arm64", "arm", "386", "ppc64le", "ppc64", "s390x", "riscv64", "mips64le", "mips64", "mips",
     "mipsle", "loong64", "wasm")
)  # fmt: skip


def host_platform() -> Platform:
    """This machine's platform."""
    machine = os.uname().machine
    architecture, variant = _ARCHITECTURES.get(machine, (machine, ""))
    return Platform(os="linux", architecture=architecture, variant=variant or None)


def parse_platform(text: str) -> Platform:
    """Read `os`, `arch`, `os/arch` or `os/arch/variant`; `InvalidArgument` for anything else."""
    parts = text.strip().lower().split("/")
    fits = all(part and part.replace("_", "").replace("-", "").replace(".", "").isalnum() for part in parts)
    if not fits or not text.isascii() or len(parts) > 3:
        raise InvalidArgument(f'"{text}": invalid platform: expected os/arch[/variant]')
    if len(parts) == 1:
        if parts[0] in _SYSTEMS:
            return Platform(os=parts[0], architecture=host_platform().architecture)
        architecture, variant = _ARCHITECTURES.get(parts[0], (parts[0], ""))
        if architecture not in _KNOWN:
            raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')
        return Platform(os="linux", architecture=architecture, variant=variant or None)
    architecture, variant = _ARCHITECTURES.get(parts[1], (parts[1], ""))
    variant = parts[2] if len(parts) == 3 else variant
    return Platform(os=parts[0], architecture=architecture, variant=variant or None)


def format_platform(platform: Platform) -> str:
    """The platform as `--platform` takes it; a variant that goes without saying is left out."""
    text = f"{platform.os}/{platform.architecture}"
    variant = platform.variant or ""
    default = platform.architecture == "arm64" and variant == "v8"
    return text if not variant or default else f"{text}/{variant}"


def rank(offered: Platform, wanted: Platform) -> int | None:
    """How well `offered` runs where `wanted` is asked for: 0 is exact, more is worse, None is not at all.

    A newer ARM runs what was built for an older one, down to v5 (arm) or v8.0 (arm64).
    """
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    default = _DEFAULT_VARIANT.get(wanted.architecture, "")
    want, have = wanted.variant or default, offered.variant or default
    if want == have:
        return 0
    if wanted.architecture in _DEFAULT_VARIANT:
        step = _version(want) - _version(have)
        return step if step > 0 else None
    # x86-64 levels: v1 goes without saying; what asks for more than wanted is not for this machine.
    step = max(1, _version(want)) - max(1, _version(have))
    return step if step >= 0 else None


def _version(variant: str) -> int:
    """`v8.1` as 801; 0 for none."""
    major, _, minor = variant.removeprefix("v").partition(".")
    return (int(major) * 100 if major.isdecimal() else 0) + (int(minor) if minor.isdecimal() else 0)


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index to run on `wanted`; attestations and artifacts are passed over.

    An entry without a platform is taken only when no other fits. Raises `NotFound` in Docker's words.
    """
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, entry in enumerate(index.manifests):
        if is_attestation(entry):
            continue
        grade = rank(entry.platform, wanted) if entry.platform else 1 << 20
        if grade is not None:
            ranked.append((grade, position, entry))
    if not ranked:
        raise NotFound(f"no matching manifest for {format_platform(wanted)} in the manifest list entries")
    return min(ranked, key=lambda item: item[:2])[2]


def is_attestation(entry: Descriptor) -> bool:
    """Whether an index entry speaks about an image instead of being one."""
    unknown = entry.platform is not None and entry.platform.os == entry.platform.architecture == "unknown"
    return unknown or ATTESTATION in (entry.annotations or {})
