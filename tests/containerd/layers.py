"""Layers with everything that real ones have, and some that only few have."""

from __future__ import annotations

import io
import tarfile

# As exact as tarfile writes it, from a float.
MTIME = 1_600_000_000.1234567
MTIME_NS = 1_600_000_000_123_456_700

# setcap cap_net_raw+ep, version 2: magic and flags, permitted, inheritable (linux/capability.h)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000").decode()


class Tar:
    """A tar file made entry by entry."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=format)

    def add(
        self,
        name: str,
        kind: bytes = tarfile.REGTYPE,
        data: bytes = b"",
        *,
        mode: int = 0o644,
        link: str = "",
        owner: tuple[int, int] = (0, 0),
        device: tuple[int, int] = (0, 0),
        mtime: float = MTIME,
        pax: dict[str, str] | None = None,
    ) -> Tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.linkname, entry.size, entry.mtime = kind, mode, link, len(data), mtime
        entry.uid, entry.gid = owner
        entry.devmajor, entry.devminor = device
        entry.pax_headers = pax or {}
        self._tar.addfile(entry, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755, **more: object) -> Tar:
        return self.add(name, tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def base() -> bytes:
    """The lowest layer: one of each kind."""
    tar = Tar()
    tar.folder("etc").folder("usr").folder("usr/bin").folder("tmp", 0o1777).folder("root", 0o700)
    tar.folder("owned", 0o750, owner=(1000, 1001)).folder("gone").folder("opaque").folder("replaced")
    tar.add("etc/passwd", data=b"root:x:0:0:\n").add("gone/file", data=b"1").add("opaque/below", data=b"2")
    tar.add("replaced/by-a-file", data=b"3").add("keep", data=b"4")
    tar.add("usr/bin/su", data=b"#!", mode=0o4755).add("usr/bin/wall", data=b"#!", mode=0o2755, owner=(0, 5))
    tar.add("usr/bin/ping", data=b"#!", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})
    tar.add("usr/bin/sudo", tarfile.LNKTYPE, link="usr/bin/su", mode=0o4755)
    tar.add("usr/bin/user", data=b"x", owner=(70000, 3_000_000_000), pax={"SCHILY.xattr.user.note": "hello"})
    tar.add("bin", tarfile.SYMTYPE, link="usr/bin", mode=0o777)
    tar.add("absolute", tarfile.SYMTYPE, link="/etc/passwd", mode=0o777, owner=(12, 13))
    tar.add("up", tarfile.SYMTYPE, link="../../../../etc/shadow", mode=0o777)
    tar.add("bin/through-a-link", data=b"5").add("fifo", tarfile.FIFOTYPE, mode=0o600)
    tar.add("null", tarfile.CHRTYPE, device=(1, 3), mode=0o666)
    tar.add("disk", tarfile.BLKTYPE, device=(7, 200), mode=0o660)
    tar.add("long/" + "n" * 200 + "/" + "m" * 180, data=b"6").add("\u00e9t\u00e9", data=b"7")
    tar.add("before-the-epoch", data=b"8", mtime=-5).add("empty")
    return tar.bytes()


def changes() -> bytes:
    """A layer upon it: whiteouts, replacements, and directories that it only implies."""
    tar = Tar(tarfile.GNU_FORMAT)
    tar.add(".wh.gone").folder("opaque").add("opaque/.wh..wh..opq").add("opaque/above", data=b"1")
    tar.add("replaced", data=b"now a file").add("owned/implied", data=b"2").add(
        "usr/bin/su", data=b"changed", mode=0o755
    )
    tar.add("usr/bin/.wh.wall").add("twice", data=b"first").add("twice", data=b"second", mode=0o600)
    tar.folder("kind").add("kind", data=b"a file in the end").add("g" * 150, data=b"3")
    tar.add("new/deep/er/file", data=b"4")
    return tar.bytes()


def more() -> bytes:
    """And one upon that."""
    tar = Tar()
    tar.folder("opaque", 0o711, owner=(5, 6)).add("opaque/again", data=b"1").add(".wh.twice").add(".wh.new")
    return tar.bytes()
