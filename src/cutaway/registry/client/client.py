"""The registry client's core: which address of a registry answers, and requests it will authorize.

    client = RegistryClient(ClientSettings())
    repository = client.repository(parse("busybox").with_default_tag(), ANONYMOUS)

The first request to a registry is `GET /v2/`, as Docker's is: it finds out whether HTTPS or (loopback and
insecure registries only) HTTP is spoken, and what challenge to answer. Tokens are kept until they expire.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from cutaway import errors
from cutaway.registry.client import auth
from cutaway.registry.client.failures import Answer, failure
from cutaway.registry.client.settings import (
    ANONYMOUS,
    ClientSettings,
    Credentials,
    Endpoint,
    endpoint_of,
    mirror_endpoints,
)
from cutaway.registry.client.tokens import TokenService
from cutaway.registry.client.transport import AUTHORIZATION, Body, Transport, read_bounded
from cutaway.registry.reference import Reference
from cutaway.trace.context import SpanContext

log = logging.getLogger(__name__)

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
        self.tokens = TokenService(self.transport, settings)

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
        mirrors: tuple[Endpoint, ...] = ()
        if endpoint is None:
            endpoint = endpoint_of(reference.domain, self.settings)
            mirrors = () if push else mirror_endpoints(reference.domain, self.settings)
        return Repository(
            self, (*mirrors, endpoint), reference, credentials, push=push, mount_from=mount_from
        )

    async def contact(self, endpoint: Endpoint, reference: Reference) -> Contact:
        """Find the address that answers; the first failure is what is reported when none does."""
        if known := self._contacts.get(endpoint):
            return known
        first: errors.Unavailable | None = None
        for base in endpoint.urls:
            try:
                contact = await self._ping(endpoint, base, reference)
            except errors.Unavailable as error:
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
            return auth.bearer(credentials.registry_token)
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return auth.bearer(await self.tokens.token(endpoint, challenge, scopes, credentials))
        if any(challenge.scheme == "basic" for challenge in challenges) and credentials.username:
            return auth.basic(credentials)
        return None


@dataclass(frozen=True)
class _Request:
    """A request below a repository, before it is known which endpoint it goes to."""

    method: str
    path: str
    headers: Mapping[str, str]
    accepted: Container[int]
    parent: SpanContext | None
    body: Body
    once: bool

    @property
    def is_located(self) -> bool:
        """Whether the path is a URL, or absolute, as a registry gives it for an upload."""
        return "://" in self.path or self.path.startswith("/")

    def open(
        self, client: RegistryClient, endpoint: Endpoint, url: URL, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return client.transport.open(
            endpoint, self.method, str(url), headers, self.parent, body=self.body, once=self.once
        )


class Repository:
    """One repository at one registry, for the length of a pull or a push."""

    def __init__(
        self,
        client: RegistryClient,
        endpoints: tuple[Endpoint, ...],
        reference: Reference,
        credentials: Credentials,
        *,
        push: bool = False,
        mount_from: Sequence[str] = (),
    ) -> None:
        self.client = client
        self._endpoints = endpoints
        self.reference = reference
        self.credentials = credentials
        self.push = push
        others = tuple(f"repository:{path}:pull" for path in mount_from)
        self.scopes = (f"repository:{reference.path}:{'pull,push' if push else 'pull'}", *others)
        # Apart for each: what a mirror says must not decide where Docker Hub's password goes.
        self._challenges: dict[Endpoint, list[auth.Challenge]] = {}

    @property
    def endpoint(self) -> Endpoint:
        """Where requests go now: the first mirror that has not failed, or the registry itself."""
        return self._endpoints[0]

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
        wanted = _Request(method, path, headers, accepted, parent, body, once)
        async with AsyncExitStack() as closing:
            while True:
                endpoint = self.endpoint
                try:
                    response = await self._ask(endpoint, wanted, closing)
                    break
                except errors.CutawayError as error:
                    if "://" in wanted.path or not self.leave_mirror(endpoint, error):
                        raise
            yield response

    def leave_mirror(self, endpoint: Endpoint, error: errors.CutawayError) -> bool:
        """Go on without a mirror that has failed, or lied; False if it was the registry itself."""
        if endpoint == self._endpoints[-1]:
            return False
        if endpoint == self.endpoint:  # another request may have left it already
            log.warning("mirror %s: %s; going on without it", endpoint.domain, error)
            self._endpoints = self._endpoints[1:]
        return True

    async def _ask(
        self, endpoint: Endpoint, wanted: _Request, closing: AsyncExitStack
    ) -> aiohttp.ClientResponse:
        """Request once, or twice if the registry first says how it is to be authorized."""
        contact = await self.client.contact(endpoint, self.reference)
        root = URL(self._root(contact))
        url = root.join(URL(wanted.path, encoded=True)) if wanted.is_located else URL(f"{root}{wanted.path}")
        ours = url.origin() == root.origin()
        # A mirror is somebody else: what opens Docker Hub is not shown to it.
        credentials = self.credentials if endpoint == self._endpoints[-1] else ANONYMOUS
        again = ours
        while True:
            sent = wanted.headers
            if ours:
                challenges = self._challenges.get(endpoint) or contact.challenges
                _check_password(challenges, credentials, wanted.method, url)
                value = await self.client.authorization(endpoint, challenges, self.scopes, credentials)
                sent = {**sent, AUTHORIZATION: value} if value else sent
            async with AsyncExitStack() as attempt:
                response = await attempt.enter_async_context(wanted.open(self.client, endpoint, url, sent))
                if response.status in wanted.accepted:
                    closing.push_async_exit(attempt.pop_all())
                    return response
                if response.status != 401 or not again:
                    raise failure(await answer_of(response), self.reference, pushing=self.push)
                # The token has expired early, or this registry challenges only on the resource itself.
                self._challenges[endpoint], again = _challenges(response), False
                self.client.tokens.drop(sent.get(AUTHORIZATION, "").removeprefix("Bearer "))

    async def url(self, path: str) -> str:
        """The whole URL of a path below this repository, which may have a query."""
        return self._root(await self.client.contact(self.endpoint, self.reference)) + path

    def _root(self, contact: Contact) -> str:
        return f"{contact.base}/v2/{self.reference.path}/"


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
