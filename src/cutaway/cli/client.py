"""The Engine API as the commands use it: version negotiation, JSON bodies, errors, hijacked streams.

Every command starts with `HEAD /_ping`; its Api-Version, or ours if lower, becomes the path's prefix.
An idle connection serves the next request; while one is busy (a wait, a hijacked stream, a log) the
next request gets a connection of its own.
"""

import os
import sys

from cutaway import __version__
from cutaway.cli import jsontext
from cutaway.cli.failure import NoDaemon, of_status
from cutaway.cli.http import Connection, Response, query, quote
from cutaway.errors import CutawayError, InvalidArgument, NotFound, Unavailable, Unknown
from cutaway.trace import context, spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Readable(Protocol):
        """What an upload is read from: up to so many bytes, none at its end."""

        def read(self, size: int = -1, /) -> bytes: ...

    Query = dict[str, str] | list[tuple[str, str]]

MAX_VERSION = (1, 50)
OLDEST_VERSION = (1, 24)
POST_SECONDS = 0.5
PING = "/_ping"
STREAM = {"Content-Type": "text/plain"}
CHUNKED = {"Transfer-Encoding": "chunked"}
UPLOAD_PIECE = 256 * 1024


class Client:
    """A caller of one daemon."""

    def __init__(self, socket_path: str, *, may_start: bool = False) -> None:
        self.socket_path = socket_path
        self.may_start = may_start  # start the daemons when nobody answers
        self.server = ""  # the Server header of its ping: who it is
        self.version = ""
        self._idle: list[Connection] = []

    @property
    def is_cutaway(self) -> bool:
        """Whether the daemon says that it is a Cutaway engine, which collects traces."""
        return self.server.startswith("Cutaway/")

    def call(
        self,
        method: str,
        path: str,
        values: "Query | None" = None,
        body: object = None,
        *,
        missing: str = "",
    ) -> "Any":
        """A request with a JSON answer (None for an empty one). See `request` for `missing`."""
        response = self.request(method, path, values, body, missing=missing)
        text = response.read_all()
        self._keep(response)
        return jsontext.loads(text) if text.strip() else None

    def request(
        self,
        method: str,
        path: str,
        values: "Query | None" = None,
        body: object = None,
        *,
        headers: "dict[str, str] | None" = None,
        missing: str = "",
    ) -> Response:
        """A request whose body the caller reads, and gives back by `done`.

        A status of 400 or more raises the error it stands for. `missing`, e.g. "container: web",
        names what a 404 means, where docker has words of its own for that.
        """
        self._negotiate()
        target = f"/v{self.version}{path}{query(values or {})}"
        with spans.span(f"{method} {path}", kind=spans.CLIENT) as span:
            span.set(**{"http.request.method": method, "url.path": target})
            response = self._exchange(method, target, body, headers or {})
            span.set(**{"http.response.status_code": response.status})
            if response.status >= 400:
                raise self._error(response, missing)
        if response.complete:
            self._keep(response)
        return response

    def upload(
        self,
        path: str,
        values: "Query",
        source: "Readable",
        *,
        method: str = "POST",
        headers: "dict[str, str] | None" = None,
        missing: str = "",
    ) -> Response:
        """A request whose body is all that a file has, sent as it is read; otherwise as `request`.

        A daemon that has seen enough answers before the end; its answer counts, not that it hung up.
        """
        self._negotiate()
        target = f"/v{self.version}{path}{query(values)}"
        with spans.span(f"{method} {path}", kind=spans.CLIENT) as span:
            span.set(**{"http.request.method": method, "url.path": target})
            connection = self._connect()
            connection.send(_head(method, target, None, {**(headers or {}), **CHUNKED}))
            try:
                while data := source.read(UPLOAD_PIECE):
                    connection.send(b"%x\r\n%b\r\n" % (len(data), data))
                connection.send(b"0\r\n\r\n")
            except Unavailable:
                pass
            response = Response(connection, method)
            span.set(**{"http.response.status_code": response.status})
            if response.status >= 400:
                raise self._error(response, missing)
        return response

    def done(self, response: Response) -> None:
        """The caller has read the body to its end, or wants no more of it."""
        self._keep(response)

    def hijack(
        self, path: str, values: "dict[str, str] | None" = None, body: object = None, *, missing: str = ""
    ) -> Connection:
        """A request that turns its connection into a raw stream. Raises `Unknown` if it does not."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"} | (STREAM if body is None else {})
        response = self.request("POST", path, values, body, headers=headers, missing=missing)
        if response.status != 101:
            raise Unknown(f"unable to upgrade to tcp, received {response.status}")
        return response.connection

    def post_spans(self, request: object) -> None:
        """Hand OTLP/JSON to the engine; a refusal is no matter: a trace is never worth a failed run.

        The answer is waited for, if not long: an HTTP server may drop what it was sent by somebody
        who has hung up already.
        """
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            connection.sock.settimeout(POST_SECONDS)
            connection.send(_head("POST", "/v1/traces", request, {}))
            response = Response(connection, "POST")
            response.read_all()
            connection.sock.settimeout(None)
            self._keep(response)
        except (CutawayError, TimeoutError):
            return

    def get_plain(self, path: str) -> "Any":
        """JSON from a path without a version, or None if there is nothing under it."""
        self._negotiate()
        response = self._exchange("GET", path, None, {})
        text = response.read_all()
        self._keep(response)
        return jsontext.loads(text) if response.status == 200 else None

    def close(self) -> None:
        """Give idle connections up; the program's end does that too."""
        while self._idle:
            self._idle.pop().close()

    def ping(self) -> bool:
        """Whether the daemon answers a ping well. Raises `NoDaemon` when there is none."""
        response = self._exchange("HEAD", PING, None, {})
        self._keep(response)
        return response.status == 200

    def ping_server(self) -> str:
        """Who the daemon says it is, e.g. `Cutaway/0.1.0`."""
        self._negotiate()
        return self.server

    def _negotiate(self) -> None:
        if self.version:
            return
        response = self._exchange("HEAD", PING, None, {})
        self.server = response.headers.get("server", "")
        theirs = _version(response.headers.get("api-version", "")) or OLDEST_VERSION
        self.version = ".".join(map(str, min(theirs, _wanted_version())))
        self._keep(response)

    def _exchange(self, method: str, target: str, body: object, headers: "dict[str, str]") -> Response:
        """Send on an idle connection if there is one; a daemon may have closed that, so try once more."""
        request = _head(method, target, body, headers)
        if self._idle:
            connection = self._idle.pop()
            try:
                connection.send(request)
                return Response(connection, method)
            except Unavailable:
                connection.close()
        connection = self._connect()
        connection.send(request)
        return Response(connection, method)

    def _connect(self) -> Connection:
        try:
            return Connection.open(self.socket_path)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            if not (absent and self.may_start and os.geteuid() == 0):
                raise no_daemon(self.socket_path, error) from None
        from cutaway.cli.daemon import start_for_client

        self.may_start = False
        start_for_client(self.socket_path)
        return self._connect()

    def _keep(self, response: Response) -> None:
        if response.reusable:
            if response.connection not in self._idle:
                self._idle.append(response.connection)
        elif response.status != 101:
            response.close()

    def _error(self, response: Response, missing: str) -> CutawayError:
        text = response.read_all()
        self._keep(response)
        if response.status == 404 and missing:
            return NotFound(f"Error: No such {missing}")
        return of_status(response.status, _message(response, text))


def _head(method: str, target: str, body: object, extra: "dict[str, str]") -> bytes:
    """A request's bytes, with its JSON body."""
    payload = b"" if body is None else jsontext.dumps(body).encode("utf-8", "surrogateescape")
    headers = {
        "Host": "api.cutaway.localhost",
        "User-Agent": f"Cutaway-Client/{__version__} (linux)",
        **extra,
    }
    if body is not None:
        headers["Content-Type"] = "application/json"
    if method == "POST" and "Transfer-Encoding" not in headers:
        headers["Content-Length"] = str(len(payload))
    current = spans.current()
    if current is not None and spans.enabled() and target != PING:
        headers[context.HEADER] = current.traceparent
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + payload


def _message(response: Response, text: bytes) -> str:
    """The words of a refusal: the JSON message, or the text itself."""
    if response.headers.get("content-type", "").startswith("application/json"):
        answer = jsontext.loads(text, "the daemon's refusal")
        message = answer.get("message") if isinstance(answer, dict) else None
        if isinstance(message, str) and message:
            return message.strip()
    plain = text.decode(errors="replace").strip()
    return plain or f"{response.status} {response.reason}"


def _version(text: str) -> "tuple[int, int] | None":
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _wanted_version() -> tuple[int, int]:
    """The newest version we speak, or the one DOCKER_API_VERSION asks for."""
    asked = os.environ.get("DOCKER_API_VERSION", "")
    if not asked:
        return MAX_VERSION
    version = _version(asked)
    if version is None:
        raise InvalidArgument(f"DOCKER_API_VERSION is {asked!r}; expected a version such as 1.41")
    return version


def no_daemon(path: str, error: OSError) -> NoDaemon:
    """Which socket was tried, what the kernel said, and what to do about it."""
    tried = f"Cannot connect to the Cutaway daemon at unix://{path}"
    if isinstance(error, PermissionError):
        return NoDaemon(f"{tried}: permission denied. Run this as root, or as a user who may use the socket.")
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        reason = "there is no such socket" if isinstance(error, FileNotFoundError) else "nobody listens there"
        return NoDaemon(f"{tried}: {reason}. Is the daemon running? Start it with: {_start_command()}")
    return NoDaemon(f"{tried}: {error.strerror or error}")


def _start_command() -> str:
    return "cutaway daemon start" if os.geteuid() == 0 else "sudo cutaway daemon start"


def path_segment(name: str) -> str:
    """A container's or image's name as part of a path; image names keep their slashes and colons."""
    return quote(name, safe="/:@")


def warn(text: str) -> None:
    print(text, file=sys.stderr)
