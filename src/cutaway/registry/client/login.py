"""Trying a name and a password at a registry, as `docker login` has it done.

`GET /v2/` says how to log in: with Basic the same request is made again with the password; with Bearer
the token service is asked for a token of no scope, and for an identity token that can be kept instead of
the password. Source: distribution, "Token Authentication Specification" and its OAuth2 page.
"""

from __future__ import annotations

from cutaway import errors
from cutaway.registry.client import auth
from cutaway.registry.client.client import RegistryClient
from cutaway.registry.client.failures import one_line
from cutaway.registry.client.settings import Credentials, Endpoint, endpoint_of
from cutaway.registry.client.transport import AUTHORIZATION
from cutaway.registry.reference import Reference


async def log_in(client: RegistryClient, domain: str, credentials: Credentials) -> str:
    """Log in; returns an identity token, or "" where the registry gives none.

    Raises `Unauthenticated` when it refuses, `Unavailable` when it cannot be reached.
    """
    endpoint = endpoint_of(domain, client.settings)
    client.forget(endpoint)
    contact = await client.contact(endpoint, Reference(domain, "login"))
    for challenge in contact.challenges:
        if challenge.scheme == "bearer":
            return await client.tokens.identity_token(endpoint, challenge, credentials)
    basic = any(challenge.scheme == "basic" for challenge in contact.challenges)
    await _try(client, endpoint, f"{contact.base}/v2/", auth.basic(credentials) if basic else "")
    return ""


async def _try(client: RegistryClient, endpoint: Endpoint, url: str, value: str) -> None:
    headers = {AUTHORIZATION: value} if value else {}
    async with client.transport.open(endpoint, "GET", url, headers) as response:
        if response.status != 200:
            status = f"{response.status} {one_line(response.reason or '')}".rstrip()
            raise errors.Unauthenticated(f"login attempt to {url} failed with status: {status}")
