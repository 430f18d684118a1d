"""HTTP to registries: connections, proxies, attempts, and redirects followed by hand.

Redirects are ours to follow because a token must never reach another host, nor any request a scheme
other than http(s). Nothing here knows what a manifest is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from cutaway import errors
from cutaway.registry.client import tls
from cutaway.registry.client.failures import RegistryUnreachable, one_line
from cutaway.registry.client.retries import Pauses
from cutaway.registry.client.settings import ClientSettings, Endpoint, is_insecure
from cutaway.trace import context as trace_context
from cutaway.trace import spans
from cutaway.trace.context import SpanContext

MAX_REDIRECTS: Final = 5
MAX_CONNECTIONS: Final = 16  # to one host; others wait
READ_BUFFER: Final = 1 << 20  # bytes; the pieces of a blob are about as large
REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
AUTHORIZATION: Final = "Authorization"
_OF_URLS: Final = "!#$%&'()*+,/:;=?@[]~"  # beside letters, digits and -._ (RFC 3986, 2.2 and 2.3)

# What aiohttp raises when there is no connection to speak of; a retry of the same is no use.
_NO_CONNECTION: Final = (
    aiohttp.ClientConnectorError,  # DNS, refused, TLS handshake
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
)
_BROKEN: Final = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)

Body = bytes | Callable[[], AsyncIterator[bytes]] | None
"""What a request carries; a stream is begun anew for each attempt. Its length is in the headers."""


class Transport:
    """Connections to registries, kept for reuse. Close it when done."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._certificates = tls.Certificates(settings.certs_dir)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close every connection."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    @asynccontextmanager
    async def open(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        parent: SpanContext | None = None,
        *,
        body: Body = None,
        once: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its response, whatever its status, with the body still to be read.

        It is tried again as `retries` says, unless it is to be sent but `once`. Raises
        `RegistryUnreachable` when there is no connection, `Unavailable` when it breaks each time,
        `PermissionDenied` for a forbidden redirect, `InvalidArgument` for unusable certificates.
        """
        with spans.span(f"HTTP {method}", kind=spans.CLIENT, parent=parent) as span:
            span.set(**{"http.request.method": method, "url.full": _told(url)})
            if _is_local(endpoint, url):  # to anybody else, our traces are none of their business
                headers = {**headers, trace_context.HEADER: span.context.traceparent}
            response = await self._attempts(endpoint, method, url, headers, body, once=once)
            try:
                span.set(**{"http.response.status_code": response.status})
                if response.content_length is not None:
                    span.set(**{"http.response.body.size": response.content_length})
                yield response
            finally:
                response.close() if not response.content.at_eof() else response.release()

    async def _attempts(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: Body, *, once: bool
    ) -> aiohttp.ClientResponse:
        pauses = Pauses(() if once else self.settings.retry_delays, self.settings.longest_retry_after)
        while True:
            try:
                response = await self._follow(endpoint, method, url, headers, body)
            except _NO_CONNECTION as error:
                raise RegistryUnreachable(_no_connection(method, url, error)) from error
            except _BROKEN as error:
                if refused := tls.refusal(error):
                    raise RegistryUnreachable(f'{method.title()} "{_told(url)}": {refused}') from error
                if (pause := pauses.after_break()) is None:
                    raise errors.Unavailable(f'{method.title()} "{_told(url)}": {broken(error)}') from error
            else:
                if (pause := pauses.after_answer(response.status, response.headers)) is None:
                    return response
                response.close()
            await asyncio.sleep(pause)

    async def _follow(
        self, endpoint: Endpoint, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> aiohttp.ClientResponse:
        session = self._session(endpoint)
        current, sent = URL(url), dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            response = await session.request(
                method,
                current,
                headers=sent,
                data=body() if callable(body) else body,
                allow_redirects=False,
                ssl=self._tls(endpoint, current),
                proxy=None if endpoint.unix_socket else self.settings.proxies.of(current),
            )
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return response
            response.close()
            target = self._redirect_target(current, location)
            if target.origin() != current.origin():
                sent.pop(AUTHORIZATION, None)
            current = target
        raise errors.Unavailable(f'{method.title()} "{_told(url)}": stopped after {MAX_REDIRECTS} redirects')

    def _redirect_target(self, source: URL, location: str) -> URL:
        """Where a redirect leads; refused unless it is http(s), and http only where http is allowed."""
        shown = one_line(location.partition("?")[0])
        try:
            target = located(source, location)
            host = target.host or ""
            port = target.port
        except ValueError:
            raise errors.PermissionDenied(f"redirect of {source.host} to a malformed URL refused") from None
        if target.scheme not in ("http", "https") or not host:
            raise errors.PermissionDenied(f"redirect of {source.host} to {shown} refused: not an http(s) URL")
        plain = target.scheme == "http" and source.scheme == "https"
        if plain and not is_insecure(f"{host}:{port}", self.settings.insecure_registries):
            raise errors.PermissionDenied(f"redirect of {source.host} to {shown} refused: it gives up TLS")
        return target

    def _tls(self, endpoint: Endpoint, url: URL) -> ssl.SSLContext | bool:
        """Whom to trust at a URL. Elsewhere than at the registry itself, it hangs on that place as well."""
        if url.scheme != "https":
            return True
        ours = any(url.origin() == URL(base).origin() for base in endpoint.urls)
        authority = endpoint.domain if ours else url.host_port_subcomponent or ""
        verify = endpoint.verify_tls or not (
            ours or is_insecure(authority, self.settings.insecure_registries)
        )
        return self._certificates.context(endpoint.domain, authority, verify=verify)

    def _session(self, endpoint: Endpoint) -> aiohttp.ClientSession:
        key = endpoint.unix_socket
        if key not in self._sessions:
            self._sessions[key] = self._new_session(endpoint)
        return self._sessions[key]

    def _new_session(self, endpoint: Endpoint) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if endpoint.unix_socket:
            connector = aiohttp.UnixConnector(endpoint.unix_socket)
        else:
            connector = aiohttp.TCPConnector(limit_per_host=MAX_CONNECTIONS)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # A blob is stored as it was digested: whoever sends it compressed must not have it undone.
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            headers={"User-Agent": self.settings.user_agent, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self.settings.connect_timeout,
                sock_read=self.settings.read_timeout,
            ),
        )


def located(source: URL, text: str) -> URL:
    """The URL that a header of an answer from `source` leads to, `%` and all as it is written there.

    What can be in no URL is escaped, for a space would end the request's path. Raises `ValueError`.
    """
    return source.join(URL(quote(text, safe=_OF_URLS), encoded=True))


async def read_bounded(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """The body of a response, or `ResourceExhausted` as soon as it is longer than `limit` bytes."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise errors.ResourceExhausted(f"{what} is larger than {limit} bytes")
    except _BROKEN as error:
        raise errors.Unavailable(f"{what}: {broken(error)}") from error
    return bytes(body)


def broken(error: BaseException) -> str:
    """A broken connection in words."""
    if isinstance(error, asyncio.TimeoutError):
        return "the registry stopped answering"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "unexpected EOF"
    return one_line(str(error)) or type(error).__name__


def _no_connection(method: str, url: str, error: Exception) -> str:
    """The reason in the words that Docker's users know."""
    where = f'{method.title()} "{_told(url)}"'
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{where}: proxyconnect tcp: {error.status} {one_line(error.message)}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"{where}: proxyconnect tcp: {one_line(str(error.os_error))}"
    if not isinstance(error, aiohttp.ClientConnectorError):
        return f"{where}: dial tcp: i/o timeout"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{where}: {tls.refusal(error.certificate_error) or one_line(str(error))}"
    cause = error.os_error
    if isinstance(cause, socket.gaierror):
        return f"{where}: dial tcp: lookup {error.host}: {(cause.strerror or 'no such host').lower()}"
    if isinstance(cause, ssl.SSLError) or isinstance(error, aiohttp.ClientSSLError):
        return f"{where}: {tls.refusal(cause) or one_line(str(cause))}"
    # asyncio's own text for a refused connection is about its call; the errno's is about the cause.
    reason = os.strerror(cause.errno) if cause.errno else str(cause)
    return f"{where}: dial tcp {error.host}:{error.port}: connect: {reason.lower()}"


def _told(url: str) -> str:
    """A URL without what may be secret in it."""
    return str(URL(url).with_query(None).with_fragment(None).with_user(None))


def _is_local(endpoint: Endpoint, url: str) -> bool:
    return bool(endpoint.unix_socket) or is_insecure(URL(url).host or "", frozenset())
