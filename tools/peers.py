"""Fetch the real container programs that Cutaway is tested beside.

    python tools/peers.py            unpack them into .peers/ (does nothing when they are there)
    python tools/peers.py --list     say what is there, and in which version
    python tools/peers.py --group vm unpack qemu and a kernel into .peers/vm/, for tools/vm.py

What comes out, all of it below one folder that may be moved:

    .peers/bin/NAME        what to put first on PATH: links, or small scripts (see wrap)
    .peers/lib/            the shared libraries that this machine lacks
    .peers/root/           Debian's packages, unpacked and never installed
    .peers/versions.json   package -> version
    .peers/stamp.json      what this was made from; decides whether there is anything to do

Nothing outside that folder changes: apt-get only resolves and downloads, and where its package lists
are missing or too old it gets private ones in a temporary folder. So root is not needed either.
Without apt-get the peers that PATH has are linked, and what is missing is said.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

# Raise this when the same packages would be laid out differently.
LAYOUT = 1

PACKAGES = (
    "docker.io",
    "containerd",
    "runc",
    "podman",
    "conmon",
    "netavark",
    "aardvark-dns",
    "golang-github-containers-common",
    "skopeo",
    "docker-registry",
    "busybox-static",
    "tini",
    "iptables",
    "nftables",
    "uidmap",
    "criu",
    "umoci",
    "nginx-light",
    "buildah",
    "dbus-daemon",
    "dbus-bin",
    "libfaketime",
)

# What only a few need; each group lies in a folder of its own, laid out like the peers' own.
GROUPS = {"vm": ("qemu-system-x86", "linux-image-cloud-amd64", "systemd")}

# The programs that tests ask for by name; --list shows these.
PROGRAMS = (
    "docker",
    "dockerd",
    "docker-init",
    "docker-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "podman",
    "conmon",
    "skopeo",
    "docker-registry",
    "busybox",
    "tini",
    "iptables",
    "nft",
    "newuidmap",
    "newgidmap",
    "criu",
    "umoci",
    "nginx",
    "buildah",
    "dbus-daemon",
    "dbus-send",
)

PROGRAM_FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/lib/podman")

# Debian's alternatives system makes these names at installation, so unpacking alone does not.
XTABLES_NAMES = tuple(f"{ip}{verb}" for ip in ("iptables", "ip6tables") for verb in ("", "-save", "-restore"))
XTABLES_VARIANTS = ("nft", "legacy")

# The rules that dockerd cannot do without. dockerd's start fails when one of these is refused.
XTABLES_PROBE = (
    "iptables -t nat -N PROBE",
    "iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j PROBE",
    "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o probe0 -j MASQUERADE",
    "iptables -t nat -A PROBE -p tcp -d 0/0 --dport 80 -j DNAT --to-destination 172.17.0.2:80",
    "iptables -A FORWARD -o probe0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)

WRAPPER = """\
#!/bin/sh
# Made by tools/peers.py: {why}.
self=$0
[ -L "$self" ] && self=$(readlink -f -- "$self")
top=${{self%/*}}/..
{exports}
exec {command} "$@"
"""


class PeersError(Exception):
    """Something that the user must know; its text is one line."""


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in the C locale, and hand back its output; never raises for its exit code."""
    import subprocess  # costs the idle path 10 ms

    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def complaint(process: subprocess.CompletedProcess[str]) -> str:
    """The line of a failed command's output that says most: apt's first error, else the last line."""
    lines = [line for line in (process.stderr + process.stdout).splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return (errors or lines[-1:] or [f"exit code {process.returncode}"])[0]


class Apt:
    """apt-get, used to resolve and to download, with every state it writes kept in a folder of ours."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.archives = work / "debs"
        self.archives.mkdir()
        # apt's own user cannot write to our folder, which costs a warning, and is pointless in it.
        self.options = [
            "-qq",
            "-o", "APT::Sandbox::User=root",
            "-o", f"Dir::Cache={work}/cache",
            "-o", "Acquire::Retries=2",
            "-o", "Acquire::http::Timeout=20",
            "-o", "Acquire::https::Timeout=20",
        ]  # fmt: skip
        (work / "cache/archives/partial").mkdir(parents=True)

    def call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([program, *self.options, *arguments], cwd=self.archives)

    def refresh(self) -> bool:
        """Get package lists of our own and use them from now on; say whether any came.

        A source that cannot be reached is no failure yet: the packages may all come from the others.
        """
        lists = self.work / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        self.options += ["-o", f"Dir::State::lists={lists}"]
        self.call("apt-get", "update")
        return any(lists.glob("*_Packages*"))

    def known(self, packages: Iterable[str]) -> list[str]:
        """Those of the packages that the lists name in a version that can be had."""
        listed = self.call("apt-cache", "show", "--no-all-versions", *packages).stdout.splitlines()
        names = {line.removeprefix("Package: ") for line in listed if line.startswith("Package: ")}
        return [package for package in packages if package in names]

    def missing_dependencies(self, packages: Sequence[str]) -> list[str]:
        """What installing the packages would add to this machine; upgrades of what it has are left out."""
        plan = self.call("apt-get", "install", "--simulate", "--no-install-recommends", *packages)
        if plan.returncode:
            raise PeersError(f"apt-get cannot resolve the peers' dependencies: {complaint(plan)}")
        # "Inst NAME (NEW ...)" is an addition, "Inst NAME [OLD] (NEW ...)" an upgrade.
        steps = [line.split() for line in plan.stdout.splitlines() if line.startswith("Inst ")]
        return [words[1] for words in steps if not words[2].startswith("[")]

    def download(self, packages: Iterable[str]) -> list[Path]:
        process = self.call("apt-get", "download", *packages)
        if process.returncode:
            raise PeersError(f"cannot download the peers: {complaint(process)}")
        return sorted(self.archives.glob("*.deb"))


def download_peers(work: Path, wanted: Sequence[str]) -> list[Path]:
    """Download packages and the libraries they miss, first by the machine's lists, then by fresh ones."""
    apt = Apt(work)
    try:
        return resolve_and_download(apt, wanted)
    except PeersError as error:
        if not apt.refresh():
            raise PeersError(f"{error} (and no package list can be had; is there a network?)") from error
        return resolve_and_download(apt, wanted)


def resolve_and_download(apt: Apt, wanted: Sequence[str]) -> list[Path]:
    packages = apt.known(wanted)
    if not packages:
        raise PeersError(f"apt-get knows none of {', '.join(wanted)}")
    for package in sorted(set(wanted) - set(packages)):
        print(f"peers: this distribution has no package {package}", file=sys.stderr)
    return apt.download(sorted({*packages, *apt.missing_dependencies(packages)}))


def unpack(archives: Sequence[Path], root: Path) -> dict[str, str]:
    """Unpack Debian packages over one another and say what they were."""
    from concurrent.futures import ThreadPoolExecutor  # costs the idle path 20 ms

    root.mkdir()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        versions = dict(pool.map(lambda archive: unpack_one(archive, root), archives))
    for path in root.rglob("*"):
        drop_set_id(path)
    return dict(sorted(versions.items()))


def unpack_one(archive: Path, root: Path) -> tuple[str, str]:
    process = run(["dpkg-deb", "--extract", os.fspath(archive), os.fspath(root)])
    if process.returncode:
        raise PeersError(f"cannot unpack {archive.name}: {complaint(process)}")
    package, _, version = run(["dpkg-deb", "--show", os.fspath(archive)]).stdout.strip().partition("\t")
    return package, version


def drop_set_id(path: Path) -> None:
    """A program that grants root has no business in a project's folder."""
    mode = path.lstat().st_mode
    if path.is_file() and not path.is_symlink() and mode & 0o6000:
        path.chmod(mode & 0o1777)


def library_folders(root: Path) -> list[Path]:
    """Where Debian keeps shared libraries: usr/lib/TRIPLET and lib/TRIPLET."""
    folders = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    return [folder for folder in folders if folder.is_dir()]


def lay_out_libraries(root: Path, lib: Path) -> None:
    lib.mkdir()
    for folder in library_folders(root):
        for library in folder.glob("*.so*"):
            link_relative(lib / library.name, library)


def lay_out_programs(root: Path, bin_: Path) -> None:
    """Make every unpacked program reachable in one folder."""
    bin_.mkdir()
    for folder in PROGRAM_FOLDERS:
        for program in sorted((root / folder).glob("*")):
            if program.is_file() and os.access(program, os.X_OK):
                expose(program, bin_)


def expose(program: Path, bin_: Path) -> None:
    """Link a program, or wrap it where it would not run as it is."""
    entry = bin_ / program.name
    if entry.is_symlink() or entry.exists():
        return
    target = program.resolve()
    exports = environment(target)
    if exports:
        wrap(entry, target, exports)
    else:
        link_relative(entry, target)


def environment(target: Path) -> dict[str, str]:
    """The variables that a program cannot run without, as sh words relative to $top."""
    exports = {}
    if lacks_libraries(target):
        exports["LD_LIBRARY_PATH"] = "$top/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    if target.name.startswith("xtables-"):
        root = top_of(target)
        for modules in (folder / "xtables" for folder in library_folders(root)):
            if modules.is_dir():
                exports["XTABLES_LIBDIR"] = f"$top/root/{modules.relative_to(root)}"
    return exports


def top_of(target: Path) -> Path:
    """The unpacked root that a program lies in."""
    return next(parent for parent in target.parents if parent.name == "root")


def lacks_libraries(target: Path) -> bool:
    """Whether the machine's own libraries are not enough for a program."""
    return "not found" in run(["ldd", os.fspath(target)]).stdout


def wrap(entry: Path, target: Path, exports: Mapping[str, str]) -> None:
    """Write a script that runs a program with the variables it needs, wherever the folder has been moved.

    The program is started by the path of a link of the entry's own name: iptables and its like
    choose what to do by the name they are called by.
    """
    named = target.with_name(entry.name)
    if not named.exists():
        named = target
    text = WRAPPER.format(
        why="its libraries and modules are not where it looks for them",
        exports="\n".join(f'export {name}="{value}"' for name, value in exports.items()),
        command=f'"$top/{os.path.relpath(named, entry.parent.parent)}"',
    )
    entry.write_text(text)
    entry.chmod(0o755)


def link_relative(entry: Path, target: Path) -> None:
    """Make a symbolic link that stays right when the folder is moved."""
    if not entry.is_symlink():
        entry.symlink_to(os.path.relpath(target, entry.parent))


def choose_xtables(bin_: Path) -> str:
    """Point iptables and its family at the variant this kernel takes; say which, or "" if it takes none."""
    variant = next((variant for variant in XTABLES_VARIANTS if xtables_works(bin_, variant)), "")
    for name in XTABLES_NAMES:
        specific = name.replace("tables", f"tables-{variant or XTABLES_VARIANTS[0]}", 1)
        if (bin_ / specific).exists():
            (bin_ / name).unlink(missing_ok=True)
            (bin_ / name).symlink_to(specific)
    return variant


def xtables_works(bin_: Path, variant: str) -> bool:
    """Try dockerd's rules in a network namespace that ends with the attempt."""
    rules = [rule.replace("iptables", f'"$bin/iptables-{variant}"', 1) for rule in XTABLES_PROBE]
    command = ["unshare", "--map-root-user", "--net", "sh", "-ec", "\n".join(rules)]
    if os.geteuid() == 0:
        command.remove("--map-root-user")
    return run(command, env={"bin": os.fspath(bin_)}).returncode == 0


def link_from_path(bin_: Path) -> list[str]:
    """Link what PATH has of the peers and return what it has not."""
    bin_.mkdir()
    missing = []
    for program in PROGRAMS:
        found = find_outside(program, bin_)
        if found is None:
            missing.append(program)
        else:
            (bin_ / program).symlink_to(found)
    return missing


def find_outside(program: str, bin_: Path) -> str | None:
    """Look a program up on PATH and in the folders for root, which a user's PATH leaves out."""
    folders = [*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    outside = [folder for folder in folders if Path(folder) != bin_]
    return shutil.which(program, path=os.pathsep.join(outside))


def recipe(packages: Sequence[str]) -> dict[str, object]:
    """What decides how .peers comes out; the kernel is apart, as only the choice of iptables hangs on it."""
    return {"layout": LAYOUT, "packages": list(packages), "machine": os.uname().machine}


def read_json(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(document, indent=2) + "\n")
    fresh.rename(path)


def is_current(peers: Path, packages: Sequence[str]) -> bool:
    """Whether .peers is what this program would make; what PATH has is cheap to look up, so always done."""
    stamp = read_json(peers / "stamp.json")
    return stamp.get("recipe") == recipe(packages) and stamp.get("source") == source() == "apt"


def source() -> str:
    """Where peers come from on this machine."""
    return "apt" if shutil.which("apt-get") and shutil.which("dpkg-deb") else "path"


def build(work: Path, packages: Sequence[str]) -> None:
    """Make a whole .peers in an empty folder."""
    versions: dict[str, str] = {}
    if source() == "apt":
        scratch = work / "scratch"
        scratch.mkdir()
        versions = unpack(download_peers(scratch, packages), work / "root")
        shutil.rmtree(scratch)
        lay_out_libraries(work / "root", work / "lib")
        lay_out_programs(work / "root", work / "bin")
    else:
        missing = link_from_path(work / "bin")
        if missing:
            print(f"peers: no apt-get here, and PATH lacks {', '.join(missing)}", file=sys.stderr)
    write_json(work / "versions.json", versions)
    stamp(work, packages)


def stamp(peers: Path, packages: Sequence[str]) -> None:
    """Choose what hangs on the running kernel and record what all this was made from."""
    variant = choose_xtables(peers / "bin") if source() == "apt" and "iptables" in packages else ""
    document = {
        "recipe": recipe(packages),
        "source": source(),
        "kernel": os.uname().release,
        "iptables": variant,
    }
    write_json(peers / "stamp.json", document)


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a finished folder in another's place; at no moment is there half a one."""
    retired = fresh.with_name(f"{fresh.name}.old")
    if target.exists():
        target.rename(retired)
    fresh.rename(target)
    shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that two runs at once make the peers once."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def ensure(peers: Path, packages: Sequence[str] = PACKAGES) -> bool:
    """Make .peers unless it is there already; say whether there was anything to do."""
    if is_current(peers, packages) and read_json(peers / "stamp.json").get("kernel") == os.uname().release:
        return False
    peers.parent.mkdir(parents=True, exist_ok=True)
    with alone(peers.parent):
        if is_current(peers, packages):
            stamp(peers, packages)
            return True
        work = peers.with_name(f"{peers.name}.tmp-{os.getpid()}")
        work.mkdir()
        try:
            build(work, packages)
            replace_folder(work, peers)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return True


def show(peers: Path) -> None:
    """Print each program with where it is, then each package with its version."""
    if not peers.is_dir():
        raise PeersError(f"{peers} is not there; make it with: python tools/peers.py")
    for program in PROGRAMS:
        entry = peers / "bin" / program
        print(f"{program:26}{entry if entry.exists() else '(missing)'}")
    for package, version in read_json(peers / "versions.json").items():
        print(f"{package:34}{version}")
    variant = read_json(peers / "stamp.json").get("iptables")
    print(f"iptables variant for this kernel: {variant or 'none works, dockerd needs --iptables=false'}")


def main(argv: Sequence[str] | None = None) -> int:
    default = Path(__file__).resolve().parent.parent / ".peers"
    parser = argparse.ArgumentParser(prog="peers", description="Fetch the real programs tests run beside.")
    parser.add_argument("--dir", type=Path, default=default, help="where to put them (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="say what is there and fetch nothing")
    parser.add_argument("--group", choices=sorted(GROUPS), help="fetch these instead, into a folder in it")
    options = parser.parse_args(argv)
    peers: Path = options.dir.absolute()
    packages: tuple[str, ...] = PACKAGES
    if options.group:
        peers, packages = peers / options.group, GROUPS[options.group]
    try:
        if options.list:
            show(peers)
        else:
            print(f"peers: {peers} {'made' if ensure(peers, packages) else 'is up to date'}")
    except PeersError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
