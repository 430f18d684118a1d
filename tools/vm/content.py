"""What the guest holds: Python, Cutaway and its tests, real peers, busybox, modules of its kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tools.vm.cpio import Archive

PROJECT = Path(__file__).resolve().parents[2]
PEERS = PROJECT / ".peers"

# Folders of Python's library, and packages, that no test imports; they are three quarters of the whole.
UNUSED_LIBRARY = {
    "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data",
    "site-packages", "dist-packages",
}  # fmt: skip
UNUSED_PACKAGES = {
    "ruff", "mypy", "mypyc", "pip", "setuptools", "grpc_tools", "google-stubs", "librt", "pathspec",
    "ast_serialize",
}  # fmt: skip

PEER_PROGRAMS = (
    "busybox", "runc", "containerd", "containerd-shim-runc-v2", "ctr", "docker", "skopeo", "docker-registry",
    "criu", "iptables-restore", "ip6tables-restore", "dbus-daemon", "dbus-send",
)  # fmt: skip

# What iptables loads by name: criu holds back the packets of a container that it saves.
XTABLES = ("libxt_mark.so", "libxt_standard.so")

# criu keeps the contents of a tmpfs by GNU tar, with options that busybox's lacks.
HOST_PROGRAMS = ("tar", "gzip")

# Of the group "vm": for the systemd cgroup driver.
SYSTEMD = ("root/lib/systemd/systemd", "bin/systemctl")

# For containers, for tests of io limits, for the engine's network, and for criu, which stops the packets of a
# container by iptables, and asks for its connections and sockets.
MODULES = (
    "overlay", "loop", "bfq",
    "veth", "bridge", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_ipv4",
    "nft_compat", "xt_mark", "nf_conntrack_netlink",
    "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "af_packet_diag", "netlink_diag",
)  # fmt: skip


def write(output: BinaryIO, kernel: Path, init: bytes) -> None:
    """Write the whole initramfs; `kernel` is the folder of its modules."""
    archive = Archive(output)
    for name in ("/proc", "/sys", "/dev", "/run", "/var", "/etc", "/root"):
        archive.folder(name)
    archive.folder("/tmp", 0o1777)
    archive.device("/dev/console", 5, 1)
    for path in files():
        archive.add(path)
    add_busybox(archive)
    modules = list(in_order(kernel, MODULES))
    for module in modules:
        archive.file(f"/modules/{module.name}", module.read_bytes())
    archive.file("/modules/order", "".join(f"/modules/{module.name}\n" for module in modules).encode())
    archive.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    archive.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.file("/etc/hosts", b"127.0.0.1 localhost\n")
    archive.file("/init", init, 0o755)
    archive.close()


def files() -> list[Path]:
    """Every file from this machine, with the shared libraries that they need."""
    found = [Path(sys.executable), PROJECT / "pyproject.toml", PROJECT / ".venv/pyvenv.cfg"]
    for name in ("stdlib", "platstdlib"):
        found += below(Path(sysconfig.get_path(name, vars=BASE)), UNUSED_LIBRARY)
    found += below(Path(sysconfig.get_path("purelib")), UNUSED_PACKAGES)
    found += (PROJECT / ".venv/bin").glob("c*")
    found += (PROJECT / "tools/vm" / name for name in ("__init__.py", "at_once.py"))
    for folder in ("src", "tests", "bin"):
        found += below(PROJECT / folder, set())
    found += (path for name in HOST_PROGRAMS if (path := host_program(name)))
    found += (path for name in XTABLES for path in PEERS.glob(f"root/usr/lib/*/xtables/{name}"))
    peers = [PEERS / "bin" / name for name in PEER_PROGRAMS]
    peers += [PEERS / "vm" / name for name in SYSTEMD]
    programs = [path for entry in peers if entry.exists() for path in (entry, *behind(entry))]
    return found + programs + sorted(libraries([*found, *programs]))


BASE = {"base": sys.base_prefix, "installed_base": sys.base_prefix, "platbase": sys.base_exec_prefix}


def host_program(name: str) -> Path | None:
    """A program of this machine's, by the path that is no link; None where it has none."""
    found = shutil.which(name, path="/usr/bin:/bin")
    return Path(found).resolve() if found else None


def below(folder: Path, unused: set[str]) -> Iterator[Path]:
    """The files below a folder, but for subfolders of such a name and what a compiler only needs."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in unused and not name.startswith("config-")]
        for name in names:
            if not name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a", ".pyi")):
                yield Path(top, name)


def behind(entry: Path) -> list[Path]:
    """What a peer's entry runs: the target of a link, or that of a wrapper (last line: `exec "$top/..."`)."""
    target = entry.resolve()
    with target.open("rb") as file:
        if file.read(2) != b"#!":
            return [target]
    command = target.read_text().splitlines()[-1].split('"')[1]
    return [Path(command.replace("$top", os.fspath(target.parent.parent)))]


def libraries(paths: Iterable[Path]) -> set[Path]:
    """The shared libraries of programs and extension modules, by ldd."""
    binaries = [os.fspath(path.resolve()) for path in paths if is_elf(path)]
    environment = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": f"{PEERS / 'lib'}:{PEERS / 'vm/lib'}"}
    found = set()
    for variables in (os.environ, environment):  # a peer runs with its libraries, the rest without
        said = subprocess.run(
            ["ldd", *binaries], env=variables, capture_output=True, text=True, check=False
        ).stdout
        words = [word for line in said.splitlines() if not line.endswith(":") for word in line.split()]
        found |= {Path(word) for word in words if word.startswith("/")}
    return found


def is_elf(path: Path) -> bool:
    if not path.is_file() or not (path.suffix == ".so" or os.access(path, os.X_OK)):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def add_busybox(archive: Archive) -> None:
    """busybox as the guest's programs. A name of this machine's that came along is not replaced."""
    busybox = (PEERS / "bin/busybox").resolve()
    archive.file("/bin/busybox", busybox.read_bytes(), 0o755)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for applet in listed.split():
        if applet in HOST_PROGRAMS and (program := host_program(applet)):
            archive.link(f"/bin/{applet}", os.fspath(program))
            continue
        archive.link(f"/bin/{applet}", "/bin/busybox")
    archive.link("/bin/python3", sys.executable)


def in_order(kernel: Path, names: Iterable[str]) -> Iterator[Path]:
    """The files of modules, each after those it depends on: no depmod has run for an unpacked kernel."""
    files = {path.stem.replace("-", "_"): path for path in kernel.rglob("*.ko")}
    done: set[str] = set()

    def visit(name: str) -> Iterator[Path]:
        if name in done or name not in files:  # what is not a file is built in
            return
        done.add(name)
        for other in dependencies(files[name]):
            yield from visit(other)
        yield files[name]

    for name in names:
        yield from visit(name)


def dependencies(module: Path) -> list[str]:
    """What a module says in its section .modinfo, a list of `key=value`, each ended by a zero."""
    _, found, rest = module.read_bytes().partition(b"\0depends=")
    return rest.partition(b"\0")[0].decode().replace("-", "_").split(",") if found else []
