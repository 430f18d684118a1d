"""What `cutaway-containerd` is told: flags over a file over defaults.

The file is containerd's `config.toml`, of which we read what has a meaning here: `root`, `state`,
`[grpc] address`, `[ttrpc] address`, `[debug] address` and `level`, the scheduler of garbage collection,
the interval of the restart monitor and the path of the opt folder. Everything else in it is left alone,
so that a dockerd that writes such a file for its own containerd can start this one
(`--config FILE --log-level info`).
"""

from __future__ import annotations

import argparse
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cutaway import __version__
from cutaway.containerd.gc_schedule import GcSettings
from cutaway.errors import InvalidArgument, NotFound

DEFAULT_ROOT = "/var/lib/cutaway/containerd"
DEFAULT_STATE = "/run/cutaway/containerd"
DEFAULT_ADDRESS = "/run/cutaway/containerd/containerd.sock"

# unix(7): sun_path holds 108 bytes with its ending zero.
MAX_SOCKET_PATH = 107

GC_TABLE = ("plugins", "io.containerd.gc.v1.scheduler")
OPT_TABLE = ("plugins", "io.containerd.internal.v1.opt")
# As containerd 1.6 has it, and as 2.x.
RESTART_TABLES = (
    ("plugins", "io.containerd.internal.v1.restart"),
    ("plugins", "io.containerd.monitor.container.v1.restart"),
)
RESTART_INTERVAL = 10.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

LOG_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "warning": "WARNING",
              "error": "ERROR", "fatal": "CRITICAL", "panic": "CRITICAL"}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The settings of one daemon."""

    root: Path
    """Persistent state: content, snapshots, metadata."""
    state: Path
    """State of this boot: bundles, sockets."""
    address: str
    """Path of the gRPC socket."""
    ttrpc_address: str
    """Path of the socket on which shims hand in events; shims get it as TTRPC_ADDRESS."""
    log_level: str = "info"
    """One of containerd's words; `debug` and finer also make shims verbose."""
    debug_address: str = ""
    """Path of the debug socket; "" for none."""
    zygote: bool = True
    """Whether our own shim may be started by fork instead of exec."""
    gc: GcSettings = field(default_factory=GcSettings)
    opt: Path = Path("/nonexistent")
    """Where clients install programs from images (`ctr install`), which shims and runtimes then find."""
    restart_interval: float = RESTART_INTERVAL
    """Seconds between two looks for containers that are to run again."""

    @property
    def content_root(self) -> Path:
        return self.root / "content"

    @property
    def snapshots_root(self) -> Path:
        return self.root / "snapshots"

    @property
    def mounts_root(self) -> Path:
        """Where layers are mounted for a moment."""
        return self.state / "mounts"

    @property
    def database(self) -> Path:
        return self.root / "metadata.db"

    @property
    def debug(self) -> bool:
        return LOG_LEVELS[self.log_level] == "DEBUG"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="cutaway-containerd",
        description="Keeps images, snapshots and containers; runs tasks through shims (containerd's API).",
        allow_abbrev=False,
    )
    found.add_argument("-c", "--config", metavar="FILE", help="a containerd config.toml; flags win over it")
    found.add_argument("--root", metavar="DIR", help=f"persistent state (default {DEFAULT_ROOT})")
    found.add_argument("--state", metavar="DIR", help=f"state of this boot (default {DEFAULT_STATE})")
    found.add_argument("-a", "--address", metavar="SOCKET", help=f"gRPC socket (default {DEFAULT_ADDRESS})")
    found.add_argument("-l", "--log-level", choices=sorted(LOG_LEVELS), help="default info")
    found.add_argument("--no-zygote", action="store_true", help="always exec shims")
    found.add_argument("-v", "--version", action="version", version=f"cutaway-containerd {__version__}")
    return found


def load(argv: list[str] | None) -> Config:
    """The settings from a command line. Raises `NotFound` or `InvalidArgument` about the file."""
    flags = parser().parse_args(argv)
    file = read_file(Path(flags.config)) if flags.config else {}
    address = flags.address or text(file, "grpc", "address") or DEFAULT_ADDRESS
    root = Path(flags.root or text(file, "root") or DEFAULT_ROOT).absolute()
    config = Config(
        root=root,
        state=Path(flags.state or text(file, "state") or DEFAULT_STATE).absolute(),
        address=socket_path(address),
        ttrpc_address=socket_path(
            text(file, "ttrpc", "address") or address.removeprefix("unix://") + ".ttrpc"
        ),
        log_level=flags.log_level or text(file, "debug", "level") or "info",
        debug_address=socket_path(debug) if (debug := text(file, "debug", "address")) else "",
        zygote=not flags.no_zygote,
        gc=gc_settings(file),
        opt=Path(text(_table(file, OPT_TABLE), "path") or root / "opt"),
        restart_interval=restart_interval(file),
    )
    if config.log_level not in LOG_LEVELS:
        raise InvalidArgument(f"log level {config.log_level!r} is none of {', '.join(LOG_LEVELS)}")
    return config


def read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise NotFound(f"config file {path} does not exist") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"config file {path}: {error}") from None


def text(file: dict[str, Any], *keys: str) -> str:
    """A string in the file, or "" where there is none."""
    value: Any = file
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"config file: {'.'.join(keys)} must be a string")
    return value


def gc_settings(file: dict[str, Any]) -> GcSettings:
    """The scheduler's table in the file over its defaults. Raises `InvalidArgument`."""
    table = _table(file, GC_TABLE)
    return GcSettings(
        **{one.name: _gc_number(one.name, one.default, table[one.name]) for one in fields(GcSettings)
           if one.name in table}
    )  # fmt: skip


def restart_interval(file: dict[str, Any]) -> float:
    """In seconds; 0 in the file stands for the default, as in containerd. Raises `InvalidArgument`."""
    for where in RESTART_TABLES:
        table = _table(file, where)
        if "interval" in table:
            return _duration("interval", table["interval"]) or RESTART_INTERVAL
    return RESTART_INTERVAL


def _table(file: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    table: Any = file
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def _duration(name: str, value: Any) -> float:
    parts = _DURATION.findall(value) if isinstance(value, str) else []
    if not parts or "".join(map("".join, parts)) != value:
        raise InvalidArgument(f'config file: {name} must be a duration such as "100ms", not {value!r}')
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _gc_number(name: str, default: Any, value: Any) -> Any:
    if name.endswith("_delay"):
        return _duration(name, value)
    if isinstance(value, bool) or not isinstance(value, int | type(default)) or value < 0:
        raise InvalidArgument(f"config file: {name} must be a number of at least 0, not {value!r}")
    return value


def socket_path(address: str) -> str:
    """An address as a path that fits into a socket's name."""
    path = str(Path(address.removeprefix("unix://")).absolute())
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise InvalidArgument(
            f"socket path {path} is longer than {MAX_SOCKET_PATH} bytes; choose a shorter --address"
        )
    return path
