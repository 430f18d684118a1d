"""A registry login as clients of the Engine API send it."""

import base64
import binascii
import json
from typing import Final

from aiohttp import web

from cutaway import errors
from cutaway.oci.document import Document, decode
from cutaway.registry.client.settings import ANONYMOUS, Credentials

MAX_AUTH: Final = 64 << 10  # characters of an X-Registry-Auth header


class AuthConfig(Document):
    """In the header X-Registry-Auth, or as the body of POST /auth."""

    username: str | None = None
    password: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            username=self.username or "",
            password=self.password or "",
            identity_token=self.identitytoken or "",
            registry_token=self.registrytoken or "",
        )


def credentials_of(request: web.Request) -> Credentials:
    """The login that a request's X-Registry-Auth header brings along."""
    return decode_auth(request.headers.get("X-Registry-Auth", ""))


def decode_auth(header: str) -> Credentials:
    """The credentials in an X-Registry-Auth header: base64url of a JSON object, all of it optional."""
    if not header:
        return ANONYMOUS
    if len(header) > MAX_AUTH:
        raise errors.InvalidArgument("X-Registry-Auth: header too long")
    try:
        padded = header.strip().rstrip("=")
        raw = base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4))
        value = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        raise errors.InvalidArgument("X-Registry-Auth: not the base64 of a JSON object") from None
    return decode(AuthConfig, value, "X-Registry-Auth").credentials
