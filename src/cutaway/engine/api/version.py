"""The API's versions: which we speak, and what a request asks for."""

from __future__ import annotations

import platform
from typing import Final

from aiohttp import web

import cutaway
from cutaway.errors import InvalidArgument

API_VERSION: Final = "1.47"
MIN_API_VERSION: Final = "1.24"
ARCHIVE_VERSION: Final = "1.22"
"""What skopeo and podman of 2023 ask for archives with, which have not changed since; that and no more."""
_ARCHIVES: Final = ("/images/load", "/images/get")
SERVER: Final = f"Cutaway/{cutaway.__version__} (linux)"
GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
HEADERS: Final = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": SERVER,
}


def architecture() -> str:
    """The machine's architecture by Go's name, as Docker's API gives it."""
    machine = platform.machine()
    return GO_ARCHITECTURES.get(machine, machine)


def as_tuple(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def check(request: web.Request) -> None:
    """Raise `InvalidArgument` for a version in the path that we do not speak."""
    asked, number = request.match_info.get("version"), of(request)
    if number > as_tuple(API_VERSION):
        raise InvalidArgument(
            f"client version {asked} is too new. Maximum supported API version is {API_VERSION}"
        )
    oldest = ARCHIVE_VERSION if request.path.endswith(_ARCHIVES) else MIN_API_VERSION
    if number < as_tuple(oldest):
        raise InvalidArgument(
            f"client version {asked} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version"
        )


def of(request: web.Request) -> tuple[int, int]:
    """The version a request is made in: its path's, or the newest."""
    return as_tuple(request.match_info.get("version") or API_VERSION)
