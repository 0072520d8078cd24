"""
The tables in PostgreSQL, and how they become those of this version: numbered steps that
only go forward (docs/spool-format.md explains the tables).

Two versions of the program may run beside each other while servers are upgraded one
after the other: a step adds what the next version needs, and what the version before
needs is taken away by a later one.  So the program of version N runs with the tables of
N and of N + 1.

What is stored is not compressed, and a message up to 8 KiB stays in its row: both were
measured (docs/cluster.md).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deferrals.errors import SpoolError

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

VERSION = 2

#: Whoever changes tables, and whoever becomes an owner, does so alone.
SCHEMA_LOCK, OWNERS_LOCK = 0x64656601, 0x64656602

#: What is written and removed all the time is cleaned all the time.
_CHURN = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0"

_FIRST = f"""
CREATE TABLE info (
    name text PRIMARY KEY,
    value text NOT NULL
);
CREATE TABLE owners (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    slot smallint NOT NULL UNIQUE CHECK (slot BETWEEN 0 AND 255),
    machine text NOT NULL,
    worker integer NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    schema integer NOT NULL,
    lease double precision NOT NULL,
    seen timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500);
CREATE TABLE messages (
    id bigint PRIMARY KEY,
    received timestamptz NOT NULL,
    since timestamptz NOT NULL,
    envelope text NOT NULL,
    size bigint NOT NULL,
    digest bytea NOT NULL,
    body bytea
) WITH (toast_tuple_target = 8160, {_CHURN});
ALTER TABLE messages ALTER body SET STORAGE EXTERNAL, ALTER envelope SET STORAGE EXTERNAL;
CREATE TABLE pieces (
    message bigint NOT NULL,
    seq integer NOT NULL,
    owner bigint,
    body bytea NOT NULL,
    PRIMARY KEY (message, seq)
) WITH ({_CHURN});
CREATE INDEX pieces_owner ON pieces (owner);
ALTER TABLE pieces ALTER body SET STORAGE EXTERNAL;
CREATE TABLE recipients (
    message bigint NOT NULL,
    seq integer NOT NULL,
    status smallint NOT NULL,
    due timestamptz NOT NULL,
    owner bigint,
    delivery text NOT NULL,
    recipient text NOT NULL,
    marks text,
    refusal text,
    destination text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    expires timestamptz,
    notice timestamptz,
    warned integer NOT NULL DEFAULT 0,
    action text,
    reply text,
    host text,
    PRIMARY KEY (message, seq)
) WITH (fillfactor = 85, {_CHURN});
CREATE INDEX recipients_queued ON recipients (destination, due) WHERE status = 0;
CREATE INDEX recipients_leased ON recipients (owner) WHERE status = 1;
CREATE INDEX recipients_ended ON recipients (due) WHERE status = 3;
CREATE INDEX recipients_notice ON recipients (notice) WHERE notice IS NOT NULL;
CREATE TABLE destinations (
    name text PRIMARY KEY,
    ready timestamptz NOT NULL,
    gate timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50, {_CHURN});
CREATE INDEX destinations_ready ON destinations (ready);
CREATE TABLE history (
    id bigint GENERATED ALWAYS AS IDENTITY,
    message bigint NOT NULL,
    seq integer NOT NULL,
    at timestamptz NOT NULL,
    event text NOT NULL,
    reply text,
    host text
) PARTITION BY RANGE (at);
CREATE TABLE history_rest PARTITION OF history DEFAULT;
CREATE INDEX history_message ON history (message);
CREATE TABLE notes (
    place bytea NOT NULL,
    item bytea NOT NULL,
    kind text NOT NULL,
    whose text NOT NULL,
    name text NOT NULL,
    value text NOT NULL,
    version bigint NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (place, item)
) WITH (fillfactor = 70, {_CHURN});
CREATE INDEX notes_expires ON notes (expires);
CREATE INDEX notes_kind ON notes (kind);
INSERT INTO info VALUES ('identity', replace(gen_random_uuid()::text, '-', '')),
    ('slot', '255');
"""

#: What a process has staged, and since when it is one; and limits that hold for all: what
#: was spent, by steps of a window that slides, and what is there at once, by owners.
_LIMITS = f"""
ALTER TABLE owners ADD COLUMN staged integer NOT NULL DEFAULT 0,
    ADD COLUMN began timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE TABLE spent (
    place bytea PRIMARY KEY,
    name text NOT NULL,
    steps jsonb NOT NULL,
    expires timestamptz NOT NULL
) WITH (fillfactor = 70, {_CHURN});
CREATE INDEX spent_expires ON spent (expires);
CREATE TABLE entered (
    place bytea PRIMARY KEY,
    counts jsonb NOT NULL
) WITH (fillfactor = 70, {_CHURN});
"""
#: What was refused for recipients, and up to when they were told; who is about to tell.
_REFUSALS = f"""
CREATE TABLE refusals (
    owner text COLLATE "C" NOT NULL,
    reference text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    expires timestamptz NOT NULL,
    said text NOT NULL,
    PRIMARY KEY (owner, reference)
) WITH ({_CHURN});
CREATE INDEX refusals_owner ON refusals (owner, at);
CREATE INDEX refusals_at ON refusals (at);
CREATE INDEX refusals_expires ON refusals (expires);
CREATE TABLE digests (
    owner text COLLATE "C" PRIMARY KEY,
    told double precision NOT NULL,
    taker bytea,
    machine text,
    worker integer,
    taken timestamptz,
    expires timestamptz NOT NULL
) WITH (fillfactor = 70, {_CHURN});
CREATE INDEX digests_expires ON digests (expires);
"""

#: What makes the version of each number, from the one before.
STEPS = {1: _FIRST, 2: _LIMITS + _REFUSALS}

#: What the tables are called.
_TABLES = ["schema", *re.findall(r"CREATE TABLE (\w+)", "".join(STEPS.values()))]


def versionOf(db: Connection) -> int:
    """
    @return: of which version the tables are; 0, where there are none of ours.
    """
    ours = "SELECT to_regclass('schema') IS NOT NULL AND to_regclass('info') IS NOT NULL"
    found = db.execute(ours).fetchone()
    if found is None or not found[0]:
        return 0
    row = db.execute("SELECT version FROM schema").fetchone()
    if row is None:
        raise SpoolError("the table that has the schema's version is empty")
    version: int = row[0]
    return version


def check(version: int) -> None:
    """
    See that this program can run with tables of a version.

    @raise SpoolError: it cannot.
    """
    if version > VERSION + 1:
        raise SpoolError(
            f"the schema is version {version}, this is version {VERSION}: install a newer deferrals"
        )
    if not version:
        raise SpoolError("the database has no tables of deferrals: run deferrals spool upgrade")
    if version < VERSION:
        raise SpoolError(
            f"the schema is version {version}, this is version {VERSION}:"
            " run deferrals spool upgrade"
        )


def upgrade(db: Connection, schema: str) -> int:
    """
    Bring the tables to this version: each step whole, or not at all.  Of several
    servers that start at once one does it, and the others wait for it.

    @param schema: the name of what they are in.
    @return: their version.
    @raise SpoolError: a newer program has made them.
    """
    version = versionOf(db)
    if version < VERSION:
        db.execute("SELECT pg_advisory_lock(%s)", (SCHEMA_LOCK,))
        try:
            if not versionOf(db):
                _make(db, schema)
                _checkPlace(db, schema)
            while (version := versionOf(db)) < VERSION:
                _step(db, version + 1)
        finally:
            db.execute("SELECT pg_advisory_unlock(%s)", (SCHEMA_LOCK,))
    check(version)
    return version


def _make(db: Connection, schema: str) -> None:
    """
    Make what the tables are in; one that is there may be another role's.
    """
    from psycopg import sql

    found = db.execute("SELECT to_regnamespace(quote_ident(%s)) IS NULL", (schema,)).fetchone()
    if found is not None and found[0]:
        db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _checkPlace(db: Connection, schema: str) -> None:
    """
    @raise SpoolError: the tables cannot be there.
    """
    encoding, current, role, mayMake = db.execute(
        "SELECT current_setting('server_encoding'), current_schema(), current_user,"
        " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
    ).fetchall()[0]
    if encoding != "UTF8":  # mail has addresses that others cannot write
        raise SpoolError(
            f"the database's encoding is {encoding}, and has to be UTF8:"
            " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if current is None or not mayMake:
        raise SpoolError(
            f"the role {role} may not use the schema {schema}, which is another role's:"
            " GRANT USAGE, CREATE ON SCHEMA, or name another one (spool.schema)"
        )
    found = db.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        " AND relname = ANY(%s) ORDER BY relname",
        (_TABLES,),
    ).fetchall()
    if found:
        names = ", ".join(name for (name,) in found)
        raise SpoolError(
            f"the schema {schema} has tables that are not of deferrals ({names}):"
            " name another one (spool.schema)"
        )


def _step(db: Connection, version: int) -> None:
    with db.transaction():
        db.execute(STEPS[version])
        if version == 1:
            db.execute("CREATE TABLE schema (version integer NOT NULL)")
            db.execute("INSERT INTO schema VALUES (1)")
        else:
            db.execute("UPDATE schema SET version = %s", (version,))


def durability(db: Connection) -> str:
    """
    What is committed is as safe as this says; and let each commit wait for that.

    @return: C{"local"}, C{"local on NAME"} of another host, or C{"synchronous: "} and
        the standbys that have it, too.
    @raise SpoolError: it is not safe at all.
    """
    names = ("fsync", "full_page_writes", "synchronous_standby_names", "synchronous_commit")
    found: dict[str, str] = dict(
        db.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", ([*names],))
    )
    for name in names[:2]:
        if found.get(name) == "off":
            raise SpoolError(f"PostgreSQL has {name} = off: what it confirms can be lost")
    if found.get("synchronous_commit") != "remote_apply":
        db.execute("SET synchronous_commit = on")
    standbys = found.get("synchronous_standby_names")
    if standbys:
        return f"synchronous: {standbys}"
    host = db.info.host
    return "local" if host.startswith("/") or not host else f"local on {host}"
