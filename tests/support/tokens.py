"""A token service that issues the JSON web tokens a real docker-registry believes, and does what it is told.

Source: distribution, "Token Authentication Specification" and "Token Authentication Implementation".
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self
from urllib.parse import parse_qs, urlsplit

from support.certificates import Pair, openssl
from support.netns import NetNs

ISSUER, SERVICE = "test issuer", "test service"
USER, PASSWORD = "ann", "open sesame"


@dataclass
class Asked:
    """A request for a token."""

    method: str
    parameters: dict[str, list[str]]
    password: str
    """`NAME:PASSWORD` of Basic authentication."""

    @property
    def scopes(self) -> list[str]:
        return [scope for given in self.parameters.get("scope", []) for scope in given.split()]

    def one(self, name: str) -> str:
        return self.parameters.get(name, [""])[0]


@dataclass
class TokenService:
    """Anybody may pull from `public/`; the user may do everything."""

    netns: NetNs
    signer: Pair
    address: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    methods: tuple[str, ...] = ("GET", "POST")
    lifetime: int = 300
    """What a token is said to last, in seconds; the registry is told five minutes in any case."""
    asked: list[Asked] = field(default_factory=list)
    identity: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def __enter__(self) -> Self:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service._answer(self, "GET", urlsplit(self.path).query)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                service._answer(self, "POST", self.rfile.read(length).decode())

            def log_message(self, *_: object) -> None:
                """Say nothing on stderr."""

        self._server = self.netns.call(ThreadingHTTPServer, (self.address, 0), Handler)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def realm(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.address}:{self._server.server_address[1]}/token"

    def config(self, authority: Path) -> str:
        """The part of docker-registry's configuration that sends clients here."""
        return (
            f'auth:\n  token:\n    realm: {self.realm}\n    service: "{SERVICE}"\n'
            f'    issuer: "{ISSUER}"\n    rootcertbundle: {authority}\n'
        )

    def _answer(self, request: BaseHTTPRequestHandler, method: str, text: str) -> None:
        _, _, encoded = request.headers.get("Authorization", "").partition(" ")
        asked = Asked(method, parse_qs(text), base64.b64decode(encoded).decode())
        self.asked.append(asked)
        if method not in self.methods:
            _send(request, 405, {})
        elif (user := self._user(asked)) is None:
            _send(request, 401, {"details": "incorrect username or password"})
        else:
            _send(request, 200, self._token(asked, user))

    def _user(self, asked: Asked) -> str | None:
        """Who asks, "" for anybody; None for a wrong password."""
        if asked.one("grant_type") == "refresh_token":
            return USER if asked.one("refresh_token") == self.identity else None
        if asked.one("grant_type") == "password":
            given = f"{asked.one('username')}:{asked.one('password')}"
        else:
            given = asked.password
        return "" if not given else USER if given == f"{USER}:{PASSWORD}" else None

    def _token(self, asked: Asked, user: str) -> dict[str, object]:
        token = self._sign(user, [access for scope in asked.scopes if (access := _access(scope, user))])
        reply: dict[str, object] = {"token": token, "access_token": token, "expires_in": self.lifetime}
        if (user and "true" in asked.one("offline_token")) or asked.one("access_type") == "offline":
            reply["refresh_token"] = self.identity
        return reply

    def _sign(self, user: str, access: list[dict[str, object]]) -> str:
        now = int(time.time())
        certificate = ssl.PEM_cert_to_DER_cert(self.signer.certificate.read_text())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now,
            "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        body = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = openssl("dgst", "-sha256", "-sign", self.signer.key, input=body.encode())
        return f"{body}.{_base64url(_raw_signature(signature))}"


def _access(scope: str, user: str) -> dict[str, object] | None:
    """What of a scope is granted."""
    kind, name, actions = scope.split(":")
    granted = [action for action in actions.split(",") if user or (action, name[:7]) == ("pull", "public/")]
    return {"type": kind, "name": name, "actions": granted} if granted else None


def _raw_signature(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature side by side, as RFC 7518 has them, out of openssl's DER."""
    numbers, position = [], 2
    for _ in range(2):
        length = der[position + 1]
        numbers.append(int.from_bytes(der[position + 2 : position + 2 + length], "big"))
        position += 2 + length
    return b"".join(number.to_bytes(32, "big") for number in numbers)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _send(request: BaseHTTPRequestHandler, status: int, document: object) -> None:
    body = json.dumps(document).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
