"""A certificate authority for tests, made by openssl: it signs for servers and for clients."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.peers import lack


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path

    def server_context(self, clients: Pair | None = None) -> ssl.SSLContext:
        """TLS as this server; with `clients`, only for clients whose certificate that authority signed."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if clients:
            context.load_verify_locations(clients.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Authority:
    """Makes certificates in a folder."""

    folder: Path
    pair: Pair

    @classmethod
    def make(cls, folder: Path, name: str = "authority") -> Authority:
        """A new authority; the test is skipped where there is no openssl."""
        folder.mkdir(parents=True, exist_ok=True)
        pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        openssl(
            "req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", pair.key, "-out", pair.certificate,
        )  # fmt: skip
        return cls(folder, pair)

    def sign(self, name: str, *alternatives: str) -> Pair:
        """A certificate for a name; `alternatives` are `DNS:...` and `IP:...`."""
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        names = ",".join(alternatives or (f"DNS:{name}",))
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
        openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        openssl(
            "x509", "-req", "-in", request, "-CA", self.pair.certificate, "-CAkey", self.pair.key,
            "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", pair.certificate,
        )  # fmt: skip
        return pair


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*arguments: str | Path, input: bytes = b"") -> bytes:
    """Run openssl; what it prints."""
    program = shutil.which("openssl")
    if program is None:
        lack("needs openssl")
    done = subprocess.run([program, *arguments], input=input, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
