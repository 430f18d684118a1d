"""The data root of cutaway-containerd, looked at from outside: whether files and records fit together."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path


def broken(root: Path) -> list[str]:
    """What does not fit together in a daemon's root: records without their files, files without a record."""
    database = sqlite3.connect(root / "metadata.db")
    digests = {row[0] for row in database.execute("SELECT digest FROM blobs")}
    sizes = dict(database.execute("SELECT digest, size FROM blobs"))
    targets = {row[0] for row in database.execute("SELECT digest FROM images")}
    folders = {row[0] for row in database.execute("SELECT folder FROM ingests")}
    ids = {str(row[0]) for row in database.execute("SELECT id FROM snapshots")}
    names = {row[0] for row in database.execute("SELECT name FROM snapshots")}
    parents = {row[0] for row in database.execute("SELECT parent FROM snapshots WHERE parent != ''")}
    database.close()
    files = {f"sha256:{name}" for name in os.listdir(root / "content/blobs/sha256")}
    wrong = [f"image of missing content {one}" for one in targets - digests]
    wrong += [f"content {one} differs" for one in digests ^ files]
    for digest in digests & files:
        data = (root / "content/blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest or len(data) != sizes[digest]:
            wrong.append(f"bytes of {digest}")
    wrong += [f"ingest folder {one}" for one in set(os.listdir(root / "content/ingest")) - folders]
    wrong += [f"snapshot {one} differs" for one in ids ^ set(os.listdir(root / "snapshots"))]
    return wrong + [f"missing parent {one}" for one in parents - names]
