"""What the daemon is told at its start: the command line, as dockerd takes it, into one frozen value."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cutaway.engine.programs import find_program
from cutaway.errors import InvalidArgument
from cutaway.registry.client.proxies import Proxies
from cutaway.registry.client.settings import check_insecure, check_mirror
from cutaway.registry.client.tls import DEFAULT_CERTS_DIR

DEFAULT_DATA_ROOT: Final = "/var/lib/cutaway"
DEFAULT_EXEC_ROOT: Final = "/run/cutaway"
OWN_RUNTIME: Final = "cutaway-runc"
DEFAULT_SHIM: Final = "io.containerd.cutaway.v1"
NO_LIMIT: Final = 1000  # layers, which no image has more of
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Runtime:
    """A name that `--runtime` may choose: which shim starts, and which OCI program that shim is told to use.

    `binary` is empty for a shim that is itself the runtime (an `io.containerd.X.vN` name given alone).
    """

    name: str
    shim: str
    binary: str = ""


@dataclass(frozen=True)
class Settings:
    """The daemon's settings. Every path is absolute."""

    hosts: tuple[str, ...]
    data_root: Path
    exec_root: Path
    pidfile: Path
    containerd: str = ""
    """Socket of a running containerd; empty: start one of our own."""
    containerd_namespace: str = "moby"
    runtimes: dict[str, Runtime] = field(default_factory=dict)
    default_runtime: str = "cutaway"
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    certs_dir: Path = DEFAULT_CERTS_DIR
    proxies: Proxies = field(default_factory=Proxies)
    max_downloads: int = 3
    max_uploads: int = 5
    max_download_attempts: int = 5
    bip: str = ""
    """Address and prefix of the bridge, e.g. 172.20.0.1/16; empty: chosen."""
    bridge: str = ""
    """Name of the bridge interface; empty: our own; "none": no bridge network."""
    log_level: str = "info"
    otlp_endpoint: str = ""
    """Where spans are forwarded to besides being kept here."""
    snapshotter: str = "overlayfs"
    init_path: str = ""
    """The program `--init` puts in as process 1; empty: docker-init or tini from PATH."""

    @property
    def containers_dir(self) -> Path:
        return self.data_root / "containers"

    @property
    def volumes_dir(self) -> Path:
        return self.data_root / "volumes"

    @property
    def database(self) -> Path:
        return self.data_root / "engine.db"

    @property
    def trace_database(self) -> Path:
        return self.data_root / "traces.db"

    @property
    def collector_socket(self) -> Path:
        """Where the parts below hand in their spans; see `collector`."""
        return self.exec_root / "otlp.sock"

    @property
    def fifo_dir(self) -> Path:
        return self.exec_root / "containerd"

    @property
    def runtime_root(self) -> Path:
        """Where the OCI runtime keeps its states."""
        return self.exec_root / "runtime"


def parser() -> argparse.ArgumentParser:
    """The command line of `cutawayd`."""
    made = argparse.ArgumentParser("cutawayd", description="A Docker-compatible container engine.")
    add = made.add_argument
    add(
        "-H", "--host", action="append", default=[], metavar="unix://PATH", help="where to listen; repeatable"
    )
    add("--data-root", default=DEFAULT_DATA_ROOT, help="what must outlive a reboot")
    add("--exec-root", default=DEFAULT_EXEC_ROOT, help="sockets, FIFOs, runtime state")
    add("-p", "--pidfile", default="", help="default: EXEC_ROOT/cutawayd.pid")
    add("--containerd", default="", metavar="SOCKET", help="use this containerd; default: start our own")
    add("--containerd-namespace", default="moby")
    add("--add-runtime", action="append", default=[], metavar="NAME=PATH|io.containerd.X.vN")
    add("--default-runtime", default="cutaway", metavar="NAME")
    add("--default-shim", default=DEFAULT_SHIM, metavar="io.containerd.X.vN")
    add("--insecure-registry", action="append", default=[], metavar="HOST[:PORT]|CIDR")
    add("--registry-mirror", action="append", default=[], metavar="URL", help="asked before Docker Hub")
    add("--certs-dir", default=str(DEFAULT_CERTS_DIR), metavar="DIR", help="HOST[:PORT]/*.crt, *.cert, *.key")
    add("--http-proxy", default="", metavar="URL", help="default: HTTP_PROXY")
    add("--https-proxy", default="", metavar="URL", help="default: HTTPS_PROXY")
    add("--no-proxy", default="", metavar="LIST", help="default: NO_PROXY")
    add("--max-concurrent-downloads", type=int, default=3, metavar="N", help="layers pulled at a time")
    add("--max-concurrent-uploads", type=int, default=5, metavar="N", help="layers pushed at a time")
    add("--max-download-attempts", type=int, default=5, metavar="N", help="of a layer that is cut")
    add("--bip", default="", metavar="CIDR", help="address of the bridge")
    add("-b", "--bridge", default="", metavar="NAME", help='name of the bridge; "none" for no bridge network')
    add("-l", "--log-level", default="info", choices=LOG_LEVELS)
    add("-D", "--debug", action="store_true", help="same as --log-level debug")
    add("--otlp-endpoint", default="", metavar="URL", help="forward spans to this collector as well")
    add("--init-path", default="", metavar="PATH", help="the docker-init program")
    add("--tlsverify", action="store_true", help=argparse.SUPPRESS)
    return made


def parse(argv: Sequence[str]) -> Settings:
    """Settings from a command line. Raises `InvalidArgument`; argparse itself exits on an unknown flag."""
    args = parser().parse_args(argv)
    exec_root = Path(args.exec_root).absolute()
    runtimes = _runtimes(args.add_runtime, args.default_shim)
    if args.default_runtime not in runtimes:
        raise InvalidArgument(
            f"--default-runtime {args.default_runtime}: no such runtime; known: {', '.join(sorted(runtimes))}"
        )
    return Settings(
        hosts=tuple(args.host) or (f"unix://{exec_root}/cutaway.sock",),
        data_root=Path(args.data_root).absolute(),
        exec_root=exec_root,
        pidfile=Path(args.pidfile).absolute() if args.pidfile else exec_root / "cutawayd.pid",
        containerd=args.containerd.removeprefix("unix://"),
        containerd_namespace=args.containerd_namespace,
        runtimes=runtimes,
        default_runtime=args.default_runtime,
        insecure_registries=tuple(map(check_insecure, args.insecure_registry)),
        registry_mirrors=tuple(map(check_mirror, args.registry_mirror)),
        certs_dir=Path(args.certs_dir).absolute(),
        proxies=_proxies(args),
        max_downloads=_limit(args.max_concurrent_downloads, "max concurrent downloads"),
        max_uploads=_limit(args.max_concurrent_uploads, "max concurrent uploads"),
        max_download_attempts=_attempts(args.max_download_attempts),
        bip=_bip(args.bip),
        bridge=args.bridge,
        log_level="debug" if args.debug else args.log_level,
        otlp_endpoint=args.otlp_endpoint,
        init_path=args.init_path,
    )


def _runtimes(added: Sequence[str], shim: str) -> dict[str, Runtime]:
    known = {
        # By its path: a shim of whatever make need not have our programs on its PATH.
        "cutaway": Runtime("cutaway", shim, find_program(OWN_RUNTIME) or OWN_RUNTIME),
        "runc": Runtime("runc", shim, "runc"),
    }
    for text in added:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InvalidArgument(f"--add-runtime {text}: expected NAME=PATH or NAME=io.containerd.X.vN")
        if value.startswith("io.containerd."):
            known[name] = Runtime(name, value)
        else:
            known[name] = Runtime(name, shim, value)
    if shim.startswith("io.containerd."):
        known.setdefault(shim, Runtime(shim, shim))
    return known


def _bip(text: str) -> str:
    if text:
        try:
            ipaddress.ip_interface(text)
        except ValueError as error:
            raise InvalidArgument(f"--bip {text}: {error}") from None
    return text


def _proxies(args: argparse.Namespace) -> Proxies:
    """The proxies of the flags, or of the environment where a flag is not given."""
    known = Proxies.of_environment()
    chosen = Proxies(
        args.http_proxy or known.http, args.https_proxy or known.https, args.no_proxy or known.no_proxy
    )
    chosen.check()
    return chosen


def _limit(number: int, what: str) -> int:
    """How many at a time; 0 is no limit, as in dockerd."""
    if number < 0:
        raise InvalidArgument(f"invalid {what}: {number}")
    return number or NO_LIMIT


def _attempts(number: int) -> int:
    if number < 1:
        raise InvalidArgument(f"invalid max download attempts: {number}")
    return number
