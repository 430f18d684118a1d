"""Tokens from a registry's token service: asked for as Docker does, kept until they expire.

    GET  REALM?scope=...&service=...              anonymous, or with the password as Basic
    POST REALM  grant_type=refresh_token          with an identity token
    POST REALM  grant_type=password               where the service knows no GET

Source: distribution, "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from yarl import URL

from cutaway import errors
from cutaway.registry.client import auth
from cutaway.registry.client.failures import token_failure
from cutaway.registry.client.settings import (
    MAX_TOKEN_REPLY,
    ClientSettings,
    Credentials,
    Endpoint,
    is_insecure,
)
from cutaway.registry.client.transport import AUTHORIZATION, Transport, read_bounded
from cutaway.trace import spans

MAX_KEPT: Final = 1000  # tokens
NO_SUCH_METHOD: Final = frozenset((404, 405))
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}

Key = tuple[str, str, tuple[str, ...], Credentials]


class TokenService:
    """Asks the token services of any number of registries."""

    def __init__(self, transport: Transport, settings: ClientSettings) -> None:
        self._transport = transport
        self._settings = settings
        self._kept: dict[Key, auth.Token] = {}
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def token(
        self, endpoint: Endpoint, challenge: auth.Challenge, scopes: Sequence[str], credentials: Credentials
    ) -> str:
        """A token for these scopes and those that the challenge names; requests at one time share it.

        Raises `Unauthenticated` when the service refuses, `Unavailable` when it cannot be asked.
        """
        wanted = tuple(dict.fromkeys((*scopes, *challenge.parameters.get("scope", "").split())))
        realm = challenge.parameters.get("realm", "")
        key = (realm, challenge.parameters.get("service", ""), wanted, credentials)
        async with self._locks.setdefault(key, asyncio.Lock()):
            token = self._kept.get(key)
            if token is None or not token.is_fresh():
                with spans.span("registry token", realm=realm, scope=" ".join(wanted)):
                    reply = await self._ask(endpoint, challenge, wanted, credentials)
                token = auth.parse_token(reply, realm)
                self._keep(key, token)
        return token.value

    async def identity_token(
        self, endpoint: Endpoint, challenge: auth.Challenge, credentials: Credentials
    ) -> str:
        """A token that can be kept in place of the password; "" if the service gives none.

        Raises `Unauthenticated` when it refuses the password.
        """
        reply = await self._ask(endpoint, challenge, (), credentials, lasting=True)
        return auth.parse_identity_token(reply)

    def drop(self, value: str) -> None:
        """Forget a token: the registry has refused it."""
        self._kept = {key: token for key, token in self._kept.items() if token.value != value}

    def _keep(self, key: Key, token: auth.Token) -> None:
        if len(self._kept) >= MAX_KEPT:
            self._kept = {key: kept for key, kept in self._kept.items() if kept.is_fresh()}
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key] = token

    async def _ask(
        self,
        endpoint: Endpoint,
        challenge: auth.Challenge,
        scopes: Sequence[str],
        credentials: Credentials,
        *,
        lasting: bool = False,
    ) -> bytes:
        realm = self._checked_realm(endpoint, challenge.parameters.get("realm", ""))
        query = auth.token_query(challenge, scopes, credentials, lasting=lasting)
        form = auth.token_form(challenge, scopes, credentials, lasting=lasting)
        if credentials.identity_token:
            # Before OAuth2 there were services that took it by GET.
            status, body = await self._post(endpoint, realm, form)
            if status in NO_SUCH_METHOD:
                status, body = await self._get(endpoint, realm, query | form, credentials)
        else:
            status, body = await self._get(endpoint, realm, query, credentials)
            if status in NO_SUCH_METHOD and credentials.username:
                status, body = await self._post(endpoint, realm, form)
        if status != 200:
            raise token_failure(status, body, str(realm.with_query(None)))
        return body

    async def _get(
        self, endpoint: Endpoint, realm: URL, query: auth.Parameters, credentials: Credentials
    ) -> tuple[int, bytes]:
        headers = {AUTHORIZATION: auth.basic(credentials)} if credentials.username else {}
        async with self._transport.open(endpoint, "GET", str(realm.update_query(query)), headers) as response:
            return response.status, await read_bounded(response, MAX_TOKEN_REPLY, "the token service's reply")

    async def _post(self, endpoint: Endpoint, realm: URL, form: Mapping[str, str]) -> tuple[int, bytes]:
        body = urlencode(form).encode()
        async with self._transport.open(endpoint, "POST", str(realm), _FORM, body=body) as response:
            return response.status, await read_bounded(response, MAX_TOKEN_REPLY, "the token service's reply")

    def _checked_realm(self, endpoint: Endpoint, realm: str) -> URL:
        """The token service's URL; it is sent passwords, so it must be HTTPS where the registry is."""
        try:
            url = URL(realm)
        except ValueError:
            url = URL()
        if url.scheme == "https" or (url.scheme == "http" and self._is_insecure(url)):
            return url
        raise errors.PermissionDenied(f"{endpoint.domain}: its token service {realm!r} is not an HTTPS URL")

    def _is_insecure(self, url: URL) -> bool:
        insecure = self._settings.insecure_registries
        return is_insecure(url.host or "", insecure) or is_insecure(url.authority, insecure)
