"""TLS to registries: whom to trust and what to show, by the folders of `certs.d`.

    certs.d/HOST[:PORT]/*.crt              authorities to trust besides the system's
    certs.d/HOST[:PORT]/NAME.cert, .key    a client certificate and its key

The folders are looked at before each new request, as Docker does for each pull: what is put there works
at once. Source: Docker's "Verify repository client with certificates"; the refusals are Docker's.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cutaway import errors

DEFAULT_CERTS_DIR: Final = Path("/etc/docker/certs.d")

Stamp = tuple[tuple[str, int, int], ...]
"""Names, times and sizes of a folder's files: another stamp, other certificates."""


@dataclass(frozen=True)
class _Folder:
    """What one registry's folder holds."""

    authorities: tuple[Path, ...]
    pairs: tuple[tuple[Path, Path], ...]
    stamp: Stamp


_EMPTY: Final = _Folder((), (), ())


class Certificates:
    """TLS contexts for requests, made when first needed and again when a folder changes."""

    def __init__(self, certs_dir: Path) -> None:
        self._certs_dir = certs_dir
        self._contexts: dict[tuple[str, str], tuple[tuple[Stamp, Stamp], ssl.SSLContext]] = {}
        self._system: ssl.SSLContext | None = None
        self._unverified: ssl.SSLContext | None = None

    def context(self, registry: str, authority: str, *, verify: bool) -> ssl.SSLContext:
        """The context for a request on behalf of `registry` to `authority` (`HOST[:PORT]` both).

        The two differ for a token service and for the target of a redirect: the registry's authorities
        are trusted there as well, its client certificate is shown to itself alone. Raises
        `InvalidArgument` for a key without a certificate, one without the other, or an unreadable file.
        """
        if not verify:
            # As in Docker, what is not to be trusted is shown nothing either.
            self._unverified = self._unverified or _trusting()
            return self._unverified
        own, theirs = self._folder(registry), self._folder(authority)
        if own == theirs == _EMPTY:
            self._system = self._system or ssl.create_default_context()
            return self._system
        key, stamps = (registry, authority), (own.stamp, theirs.stamp)
        known = self._contexts.get(key)
        if known is None or known[0] != stamps:
            known = (stamps, _make(own, theirs))
            self._contexts[key] = known
        return known[1]

    def _folder(self, authority: str) -> _Folder:
        if not authority or "/" in authority or authority in (".", ".."):
            return _EMPTY
        folder = self._certs_dir / authority
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            stamp = tuple((entry.name, (s := entry.stat()).st_mtime_ns, s.st_size) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return _EMPTY
        except OSError as error:
            raise errors.InvalidArgument(f"cannot read {folder}: {error.strerror}") from None
        names = [entry.name for entry in entries]
        return _Folder(
            tuple(folder / name for name in names if name.endswith(".crt")), _pairs(folder, names), stamp
        )


def _pairs(folder: Path, names: list[str]) -> tuple[tuple[Path, Path], ...]:
    """The client certificates with their keys; either alone is refused."""
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = name.removesuffix(".cert") + ".key"
            if key not in names:
                raise errors.InvalidArgument(
                    f"missing key {key} for client certificate {name}. "
                    "CA certificates must use the extension .crt"
                )
            pairs.append((folder / name, folder / key))
        elif name.endswith(".key") and (certificate := name.removesuffix(".key") + ".cert") not in names:
            raise errors.InvalidArgument(f"missing client certificate {certificate} for key {name}")
    return tuple(pairs)


def _trusting() -> ssl.SSLContext:
    """A context for registries whose certificates are not looked at; no authority is read for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _make(own: _Folder, theirs: _Folder) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for path in dict.fromkeys((*own.authorities, *theirs.authorities)):
        _load(path, partial(context.load_verify_locations, cafile=path))
    # OpenSSL keeps one certificate for each kind of key, the last: so the first by name wins.
    for certificate, key in reversed(theirs.pairs):
        # A key with a passphrase must not have OpenSSL ask for it on the daemon's terminal.
        _load(certificate, partial(context.load_cert_chain, certificate, key, password=_no_password))
    return context


def _no_password() -> str:
    return ""


def _load(path: Path, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise errors.InvalidArgument(f"{path}: no usable certificate: {error.reason or error}") from None
    except OSError as error:
        raise errors.InvalidArgument(f"{path}: {error.strerror}") from None


def refusal(error: BaseException) -> str:
    """What went wrong in a TLS handshake, in the words of Go's TLS, which Docker's users know; or "".

    TLS 1.3 refuses a client after the handshake: then it is the cause of a broken connection.
    """
    if not isinstance(error, ssl.SSLError) and isinstance(error.__cause__, ssl.SSLError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        words = _VERIFICATION.get(error.verify_code)
        return f"x509: {words}" if words else f"tls: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        _, alert, name = reason.partition("_ALERT_")
        if alert:
            return f"remote error: tls: {name.lower().replace('_', ' ')}"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return "http: server gave HTTP response to HTTPS client"
        return f"tls: {reason.lower().replace('_', ' ') or error}"
    return ""


# Codes of OpenSSL's X509_verify_cert_error_string(3).
_VERIFICATION: Final = {
    9: "certificate has expired or is not yet valid",
    10: "certificate has expired or is not yet valid",
    18: "certificate signed by unknown authority",
    19: "certificate signed by unknown authority",
    20: "certificate signed by unknown authority",
    21: "certificate signed by unknown authority",
    62: "certificate is not valid for this host name",
    64: "certificate is not valid for this IP address",
}
