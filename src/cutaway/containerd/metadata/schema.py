"""The metadata database, drawn, and how it got there.

    settings          name*, value                       the server's UUID
    namespaces        name*, labels
    images            namespace*, name*, labels, media_type, digest, size, annotations, created, updated
    containers        namespace*, id*, labels, image, runtime, options_type, options, spec_type, spec,
                      snapshotter, snapshot_key, sandbox, extensions, created, updated
    blobs             namespace*, digest*, size, labels, created, updated
    ingests           namespace*, ref*, folder, total, shared, expires, started, updated
    snapshots         id*, snapshotter, namespace, name, parent, kind, labels, size, inodes, created, updated
                      (snapshotter, namespace and name are unique together; id is the directory's name)
    leases            namespace*, id*, labels, created
    lease_resources   namespace*, lease*, type*, id*     type: content, ingests, snapshots/<snapshotter>

    * the primary key. Times are nanoseconds since the epoch. labels, annotations: a JSON object of texts.
    Typed values (spec, options, extensions) are kept as they came: type URL and bytes.
    A blob's bytes are shared by all namespaces; a row here makes them visible in one.

`MIGRATIONS[n]` brings version n to n + 1; a released one is never edited, only followed by another.
The version is SQLite's `user_version`.
"""

from __future__ import annotations

import sqlite3

from cutaway.errors import FailedPrecondition

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE images (
        namespace TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL,
        media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, annotations TEXT NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE containers (
        namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, image TEXT NOT NULL,
        runtime TEXT NOT NULL, options_type TEXT, options BLOB, spec_type TEXT NOT NULL, spec BLOB NOT NULL,
        snapshotter TEXT NOT NULL, snapshot_key TEXT NOT NULL, sandbox TEXT NOT NULL,
        extensions BLOB NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    );
    CREATE TABLE blobs (
        namespace TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, labels TEXT NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) WITHOUT ROWID;
    CREATE INDEX blobs_by_digest ON blobs (digest);
    CREATE TABLE ingests (
        namespace TEXT NOT NULL, ref TEXT NOT NULL, folder TEXT NOT NULL UNIQUE, total INTEGER NOT NULL,
        shared TEXT NOT NULL, expires INTEGER NOT NULL, started INTEGER NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (namespace, ref)
    ) WITHOUT ROWID;
    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        snapshotter TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, parent TEXT NOT NULL,
        kind INTEGER NOT NULL, labels TEXT NOT NULL, size INTEGER NOT NULL, inodes INTEGER NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL,
        UNIQUE (snapshotter, namespace, name)
    );
    CREATE INDEX snapshots_by_parent ON snapshots (snapshotter, namespace, parent);
    CREATE TABLE leases (
        namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, created INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;
    CREATE TABLE lease_resources (
        namespace TEXT NOT NULL, lease TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY (namespace, lease, type, id),
        FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX lease_resources_by_id ON lease_resources (namespace, type, id);
    """,
)


def migrate(connection: sqlite3.Connection, to: int = len(MIGRATIONS)) -> None:
    """Bring a database to a version, each step in a transaction of its own.

    Raises `FailedPrecondition` for a database that a newer release has written.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise FailedPrecondition(
            f"the metadata is of version {version}, newer than this release knows ({len(MIGRATIONS)}): "
            "use the release that wrote it"
        )
    for step in range(version, to):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[step]}; PRAGMA user_version = {step + 1}; COMMIT;"
        )
