"""The registry client's core: which address of a registry answers, and requests it will authorize.

    client = RegistryClient(ClientSettings())
    repository = client.repository(parse("busybox").with_default_tag(), ANONYMOUS)

The first request to a registry is `GET /v2/`, as Docker's is: it finds out whether HTTPS or (loopback and
insecure registries only) HTTP is spoken, and what challenge to answer. Tokens are kept until they expire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from cutaway import errors
from cutaway.registry.client import auth
from cutaway.registry.client.failures import Answer, RegistryUnreachable, failure
from cutaway.registry.client.settings import (
    ANONYMOUS,
    MAX_TOKEN_REPLY,
    ClientSettings,
    Credentials,
    Endpoint,
    endpoint_of,
    is_insecure,
)
from cutaway.registry.client.transport import AUTHORIZATION, Body, Transport, read_bounded
from cutaway.registry.reference import Reference
from cutaway.trace import spans
from cutaway.trace.context import SpanContext

MAX_ERROR: Final = 64 << 10  # bytes of an error's body that are looked at


@dataclass
class Contact:
    """What is known of a registry once it has answered."""

    base: str
    challenges: list[auth.Challenge]


class RegistryClient:
    """A client of any number of registries. Close it when done."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.transport = Transport(settings)
        self._contacts: dict[Endpoint, Contact] = {}
        self._tokens: dict[tuple[str, str, tuple[str, ...], Credentials], auth.Token] = {}

    async def close(self) -> None:
        """Close every connection."""
        await self.transport.close()

    def repository(
        self,
        reference: Reference,
        credentials: Credentials = ANONYMOUS,
        endpoint: Endpoint | None = None,
        *,
        push: bool = False,
        mount_from: Sequence[str] = (),
    ) -> Repository:
        """The repository that a reference names, at its own registry or at `endpoint`.

        To push to it takes more rights, and to mount blobs from other repositories theirs as well.
        """
        endpoint = endpoint or endpoint_of(reference.domain, self.settings)
        return Repository(self, endpoint, reference, credentials, push=push, mount_from=mount_from)

    async def contact(self, endpoint: Endpoint, reference: Reference) -> Contact:
        """Find the address that answers; the first failure is what is reported when none does."""
        if known := self._contacts.get(endpoint):
            return known
        first: RegistryUnreachable | errors.CutawayError | None = None
        for base in endpoint.urls:
            try:
                contact = await self._ping(endpoint, base, reference)
            except (RegistryUnreachable, errors.Unavailable) as error:
                # Of a loopback registry without TLS the second failure tells more than the first.
                first = error if first is None or base.startswith("http:") else first
                continue
            self._contacts[endpoint] = contact
            return contact
        assert first is not None
        raise first

    def forget(self, endpoint: Endpoint) -> None:
        """Look for the registry anew at the next request: it may have moved or changed its mind."""
        self._contacts.pop(endpoint, None)

    async def _ping(self, endpoint: Endpoint, base: str, reference: Reference) -> Contact:
        url = f"{base}/v2/"
        async with self.transport.open(endpoint, "GET", url, {}) as response:
            if response.status == 401:
                return Contact(base, _challenges(response))
            if response.status in (403, 429) or response.status >= 500:
                raise failure(await answer_of(response), reference)
            return Contact(base, [])

    async def authorization(
        self,
        endpoint: Endpoint,
        challenges: list[auth.Challenge],
        scopes: tuple[str, ...],
        credentials: Credentials,
    ) -> str | None:
        """The `Authorization` header that answers the challenges, or None where none is asked for."""
        if credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return f"Bearer {(await self._token(endpoint, challenge, scopes, credentials)).value}"
        if any(challenge.scheme == "basic" for challenge in challenges) and credentials.username:
            return auth.basic(credentials)
        return None

    async def identity_token(
        self, endpoint: Endpoint, challenge: auth.Challenge, credentials: Credentials
    ) -> str:
        """A token from the token service that can be kept in place of the password; "" if it gives none.

        Raises `Unauthenticated` when it refuses the password.
        """
        reply = await self._ask_for_token(
            endpoint, challenge, auth.login_query(challenge, credentials), credentials
        )
        return auth.parse_identity_token(reply)

    def drop_tokens(self, scopes: tuple[str, ...]) -> None:
        """Forget the tokens for these scopes: the registry has refused one."""
        self._tokens = {key: token for key, token in self._tokens.items() if key[2] != scopes}

    async def _token(
        self, endpoint: Endpoint, challenge: auth.Challenge, scopes: tuple[str, ...], credentials: Credentials
    ) -> auth.Token:
        realm = challenge.parameters.get("realm", "")
        key = (realm, challenge.parameters.get("service", ""), scopes, credentials)
        token = self._tokens.get(key)
        if token is None or not token.is_fresh():
            with spans.span("registry token", realm=realm, scope=" ".join(scopes)):
                token = await self._fetch_token(endpoint, challenge, scopes, credentials)
            self._tokens[key] = token
        return token

    async def _fetch_token(
        self, endpoint: Endpoint, challenge: auth.Challenge, scopes: tuple[str, ...], credentials: Credentials
    ) -> auth.Token:
        query = auth.token_query(challenge, scopes, credentials)
        reply = await self._ask_for_token(endpoint, challenge, query, credentials)
        return auth.parse_token(reply, challenge.parameters.get("realm", ""))

    async def _ask_for_token(
        self,
        endpoint: Endpoint,
        challenge: auth.Challenge,
        query: dict[str, str | Sequence[str]],
        credentials: Credentials,
    ) -> bytes:
        realm = self._checked_realm(endpoint, challenge.parameters.get("realm", ""))
        headers = {AUTHORIZATION: auth.basic(credentials)} if credentials.username else {}
        url = str(realm.update_query(query))
        tls = Endpoint(endpoint.domain, (), verify_tls=endpoint.verify_tls or not self._is_insecure(realm))
        async with self.transport.open(tls, "GET", url, headers) as response:
            body = await read_bounded(response, MAX_TOKEN_REPLY, "the token service's reply")
            if response.status in (401, 403):
                raise errors.Unauthenticated("unauthorized: incorrect username or password")
            if response.status == 429:
                raise errors.ResourceExhausted("toomanyrequests: the token service refuses more requests")
            if response.status != 200:
                raise errors.Unavailable(f"{realm.host}: the token service answered {response.status}")
        return body

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
        return is_insecure(url.host or "", self.settings.insecure_registries) or is_insecure(
            url.authority, self.settings.insecure_registries
        )


class Repository:
    """One repository at one registry, for the length of a pull or a push."""

    def __init__(
        self,
        client: RegistryClient,
        endpoint: Endpoint,
        reference: Reference,
        credentials: Credentials,
        *,
        push: bool = False,
        mount_from: Sequence[str] = (),
    ) -> None:
        self.client = client
        self.endpoint = endpoint
        self.reference = reference
        self.credentials = credentials
        self.push = push
        others = tuple(f"repository:{path}:pull" for path in mount_from)
        self.scopes = (f"repository:{reference.path}:{'pull,push' if push else 'pull'}", *others)
        self._challenges: list[auth.Challenge] = []

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        accepted: Container[int] = (200,),
        parent: SpanContext | None = None,
        body: Body = None,
        once: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Request a path below this repository, authorized; its response has one of the accepted statuses.

        Any other status raises the error that `failures` makes of it. The request is recorded under
        `parent`, or under the current span. The path may also be the whole URL that the registry has
        given for an upload; on another host than its own it gets no authorization.
        """
        contact = await self.client.contact(self.endpoint, self.reference)
        root = URL(await self.url(""))
        url = root.join(URL(path, encoded=True)) if "://" in path or path.startswith("/") else root / path
        ours = url.origin() == root.origin()
        attempts = 2
        while True:
            attempts -= 1
            sent = headers
            if ours:
                challenges = self._challenges or contact.challenges
                _check_password(challenges, self.credentials, method, url)
                sent = await self._authorized(headers, challenges)
            async with self.client.transport.open(
                self.endpoint, method, str(url), sent, parent, body=body, once=once
            ) as response:
                if response.status in accepted:
                    yield response
                    return
                if response.status != 401 or not attempts or not ours:
                    raise failure(await answer_of(response), self.reference, pushing=self.push)
                # The token has expired early, or this registry challenges only on the resource itself.
                self._challenges = _challenges(response)
                if AUTHORIZATION in sent:
                    self.client.drop_tokens(self.scopes)

    async def url(self, path: str) -> str:
        """The whole URL of a path below this repository, which may have a query."""
        contact = await self.client.contact(self.endpoint, self.reference)
        return f"{contact.base}/v2/{self.reference.path}/{path}"

    async def _authorized(
        self, headers: Mapping[str, str], challenges: list[auth.Challenge]
    ) -> dict[str, str]:
        value = await self.client.authorization(self.endpoint, challenges, self.scopes, self.credentials)
        return {**headers, AUTHORIZATION: value} if value else dict(headers)


def _check_password(
    challenges: list[auth.Challenge], credentials: Credentials, method: str, url: URL
) -> None:
    """Say in Docker's words that a password is asked for, which the request would only be refused without."""
    basic_only = challenges and all(challenge.scheme == "basic" for challenge in challenges)
    if basic_only and not (credentials.username or credentials.registry_token):
        raise errors.Unknown(f'{method.title()} "{url.with_query(None)}": no basic auth credentials')


def _challenges(response: aiohttp.ClientResponse) -> list[auth.Challenge]:
    return auth.parse_challenges(response.headers.getall("WWW-Authenticate", []))


async def answer_of(response: aiohttp.ClientResponse) -> Answer:
    """What a registry said with a status that was not wanted; no more than the start of its body."""
    try:
        body = await read_bounded(response, MAX_ERROR, "error") if response.method != "HEAD" else b""
    except (errors.ResourceExhausted, errors.Unavailable):
        body = b""
    denied = any(
        challenge.parameters.get("error") == "insufficient_scope" for challenge in _challenges(response)
    )
    return Answer(response.status, body, str(response.url.with_query(None)), denied)
