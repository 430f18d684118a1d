"""Authorization at a registry: challenges, Basic, and the token service's Bearer tokens.

Source: RFC 9110 section 11 (challenges) and distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cutaway import errors
from cutaway.registry.client.settings import Credentials

DEFAULT_LIFETIME: Final = 60  # seconds, when a reply has no expires_in
MARGIN: Final = 5  # seconds before its end at which a token is no longer used
CLIENT_ID: Final = "cutaway"


@dataclass(frozen=True)
class Challenge:
    """One `WWW-Authenticate` challenge; the scheme is in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """A bearer token and when to stop using it (seconds of the monotonic clock)."""

    value: str = field(repr=False)
    expires: float

    def is_fresh(self) -> bool:
        return time.monotonic() < self.expires


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """The challenges of a 401; a malformed rest is ignored, as what came before it may do."""
    return [challenge for header in headers if (challenge := _parse_challenge(header))]


def _parse_challenge(header: str) -> Challenge | None:
    scheme, _, rest = header.strip().partition(" ")
    if not scheme:
        return None
    parameters: dict[str, str] = {}
    while rest := rest.lstrip(" ,"):
        name, equals, rest = rest.partition("=")
        if not equals:
            break
        value, rest = _quoted(rest) if rest.startswith('"') else _bare(rest)
        parameters.setdefault(name.strip().lower(), value)
    return Challenge(scheme.lower(), parameters)


def _quoted(text: str) -> tuple[str, str]:
    """The text inside leading quotes, backslashes undone, and what follows it."""
    value, index = "", 1
    while index < len(text) and text[index] != '"':
        index += text[index] == "\\"
        value += text[index : index + 1]
        index += 1
    return value, text[index + 1 :]


def _bare(text: str) -> tuple[str, str]:
    value, _, rest = text.partition(",")
    return value.strip(), rest


def basic(credentials: Credentials) -> str:
    """The value of an `Authorization` header for a name and a password."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


Parameters = dict[str, str | Sequence[str]]


def token_query(
    challenge: Challenge, scopes: Sequence[str], credentials: Credentials, *, lasting: bool = False
) -> Parameters:
    """The query of a token request by GET; each scope asks for actions on one repository.

    `lasting` asks for an identity token as well, which logins keep in place of the password.
    """
    query: Parameters = {**_common(challenge)}
    if scopes:
        query["scope"] = scopes
    if credentials.username:
        query["account"] = credentials.username
    if lasting:
        query |= {"offline_token": "true", "client_id": CLIENT_ID}
    return query


def token_form(
    challenge: Challenge, scopes: Sequence[str], credentials: Credentials, *, lasting: bool = False
) -> dict[str, str]:
    """The form of a token request by POST: OAuth2's, for an identity token or a name and a password."""
    form = {**_common(challenge), "client_id": CLIENT_ID}
    if scopes:
        form["scope"] = " ".join(scopes)
    if credentials.identity_token:
        form |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
    else:
        form |= {
            "grant_type": "password",
            "username": credentials.username,
            "password": credentials.password,
        }
        if lasting:
            form["access_type"] = "offline"
    return form


def _common(challenge: Challenge) -> dict[str, str]:
    service = challenge.parameters.get("service")
    return {"service": service} if service else {}


def bearer(token: str) -> str:
    """The value of an `Authorization` header for a token; `InvalidArgument` for what can be none."""
    if not is_token(token):
        raise errors.InvalidArgument("invalid registry token: it has characters that no token has")
    return f"Bearer {token}"


def is_token(value: str) -> bool:
    """Whether this can stand in a header: a line break would begin another one."""
    return value.isascii() and value.isprintable() and " " not in value


def parse_identity_token(body: bytes) -> str:
    """The lasting token in a token service's reply, or ""."""
    try:
        value = json.loads(body).get("refresh_token")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return value if isinstance(value, str) else ""


def parse_token(body: bytes, realm: str) -> Token:
    """Read a token service's reply; `Unauthenticated` for one without a usable token."""
    try:
        reply = json.loads(body)
        value = reply.get("token") or reply.get("access_token")
        lifetime = reply.get("expires_in") or DEFAULT_LIFETIME
    except (ValueError, RecursionError, AttributeError):
        raise errors.Unauthenticated(f"{realm}: the token service's reply is not a JSON object") from None
    if not isinstance(value, str) or not is_token(value):
        raise errors.Unauthenticated(f"{realm}: authorization server did not include a token in the response")
    if not isinstance(lifetime, int | float):
        lifetime = DEFAULT_LIFETIME
    return Token(value, time.monotonic() + max(0, lifetime - MARGIN))
