"""Registries as ends of a transfer: where they are, and the client's credentials, asked for when needed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from cutaway import __version__, errors
from cutaway.containerd.transfer.hosts import endpoints
from cutaway.containerd.transfer.streams import Stream, unpacked
from cutaway.errors import CutawayError, InvalidArgument, Unauthenticated, Unimplemented
from cutaway.pb import transfer_types_pb2 as pb
from cutaway.registry import reference
from cutaway.registry.client.client import RegistryClient, Repository
from cutaway.registry.client.settings import ANONYMOUS, DOCKER_HUB, ClientSettings, Credentials, Endpoint
from cutaway.registry.reference import DEFAULT_DOMAIN, Reference

T = TypeVar("T")

CERTS_DIR: Final = Path("/etc/containerd/certs.d")
SOURCE: Final = "containerd.io/distribution.source"


class Registry:
    """`containerd.types.transfer.OCIRegistry`, for one transfer. Close it when done."""

    def __init__(self, message: pb.OCIRegistry, auth: Stream | None, *, push: bool) -> None:
        """Raises `InvalidArgument`, `Unimplemented` for what cannot be obeyed."""
        resolver = message.resolver
        if resolver.headers:
            raise Unimplemented("headers for a registry are not supported: not implemented")
        if resolver.http_debug != pb.DISABLED:
            raise Unimplemented("showing the requests to a registry is not supported: not implemented")
        self.text = message.reference
        self.reference = _parse(message.reference)
        settings = ClientSettings(
            certs_dir=Path(resolver.host_dir) if resolver.host_dir else CERTS_DIR,
            user_agent=f"cutaway-containerd/{__version__}",
        )
        self._endpoints = endpoints(
            self.reference.domain, resolver.host_dir, resolver.default_scheme, settings, push=push
        )
        self._client = RegistryClient(settings)
        self._auth = auth
        self._push = push
        self._credentials: Credentials | None = None

    def __str__(self) -> str:
        return f"OCI Registry ({self.text})"

    async def close(self) -> None:
        await self._client.close()
        if self._auth:
            self._auth.close()

    async def use(self, action: Callable[[Repository], Awaitable[T]], mount_from: Sequence[str] = ()) -> T:
        """Do something with the repository, logged in if it asks for that.

        Raises what the registry refuses, as one of the closed set of classes.
        """
        try:
            if await self._challenges():
                await self._log_in()
            try:
                return await action(self._repository(mount_from))
            except CutawayError as error:
                # Some challenge only where it matters, so that nobody has been asked yet.
                if not _is_refusal(error) or not await self._log_in():
                    raise
            return await action(self._repository(mount_from))
        except CutawayError as error:
            raise plain(error) from None

    def _repository(self, mount_from: Sequence[str]) -> Repository:
        credentials = self._credentials or ANONYMOUS
        return Repository(
            self._client, self._endpoints, self.reference, credentials, push=self._push, mount_from=mount_from
        )

    @property
    def _own(self) -> Endpoint:
        """The registry itself, and not a mirror of it: the one that credentials are for."""
        return self._endpoints[-1]

    async def _challenges(self) -> bool:
        try:
            return bool((await self._client.contact(self._own, self.reference)).challenges)
        except errors.Unavailable:
            if len(self._endpoints) == 1:
                raise
            return False

    async def _log_in(self) -> bool:
        """Ask the client for credentials, once; False if that was done, or nobody is there to ask."""
        if self._auth is None or self._credentials is not None:
            return False
        domain = self.reference.domain
        host = DOCKER_HUB.removeprefix("https://") if domain == DEFAULT_DOMAIN else domain
        await self._auth.send(pb.AuthRequest(host=host, reference=self.text))
        answer = await self._auth.receive()
        response = None if answer is None else unpacked(answer, pb.AuthResponse)
        if response is None:
            raise Unauthenticated("failed to get credentials: the client has not answered")
        self._credentials = _credentials(response)
        return self._credentials != ANONYMOUS


def _is_refusal(error: CutawayError) -> bool:
    return (
        isinstance(error, Unauthenticated)
        or "no basic auth credentials" in str(error)
        or "denied" in str(error)
    )


def _credentials(response: pb.AuthResponse) -> Credentials:
    if response.authType == pb.CREDENTIALS:
        return Credentials(response.username, response.secret)
    if response.authType == pb.REFRESH:
        return Credentials(identity_token=response.secret)
    if response.authType == pb.HEADER:
        return _of_header(response.secret)
    return ANONYMOUS


def _of_header(value: str) -> Credentials:
    """Credentials in the form of an `Authorization` header."""
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer" and rest:
        return Credentials(registry_token=rest.strip())
    if scheme.lower() == "basic":
        try:
            name, colon, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if colon:
            return Credentials(name, password)
    raise InvalidArgument("credentials of the client: neither a Bearer nor a Basic header")


def _parse(text: str) -> Reference:
    """A name in full, as images are called here. Raises `InvalidArgument`."""
    parsed = reference.parse(text)
    if not parsed.tag and not parsed.digest:
        raise InvalidArgument(f"failed to resolve image: {text}: object required")
    return parsed


def source_label(named: Reference) -> str:
    """The label that lists a registry's repositories which a blob is in: the host without its port."""
    host = named.domain.rpartition(":")[0] if ":" in named.domain else named.domain
    return f"{SOURCE}.{host.strip('[]').replace(':', '-')}"


def plain(error: CutawayError) -> CutawayError:
    """An error as a class that every seam knows: the registry's client has finer ones."""
    kind = next(one for one in type(error).__mro__ if one.__module__ == errors.__name__)
    return error if type(error) is kind else kind(str(error))


def first_of(group: ExceptionGroup[Exception]) -> Exception:
    """The failure that ended the others."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first
