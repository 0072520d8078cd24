"""
The tables of the embedded spool (docs/spool-format.md explains them).

C{destinations} is what keeps claiming cheap: one row for each next hop that
recipients wait for, found by the time at which something may be done there.  A
million recipients that wait for one dead host are one row that is not due.
"""

from __future__ import annotations

import sqlite3

from deferrals.errors import SpoolError

VERSION = 4

#: The name in C{info} of the spool's own random number, which is made with it: beside
#: it, a transaction's number is unique on all servers.
IDENTITY = "identity"

#: The name in C{info} of the number that grows here and in the directory
#: (L{deferrals.spool.sqlite.marker}).
GENERATION = "generation"

_RECIPIENTS = """
CREATE TABLE recipients (
    message INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    status INTEGER NOT NULL,
    due REAL NOT NULL,
    owner TEXT,
    delivery TEXT NOT NULL,
    recipient TEXT NOT NULL,
    marks TEXT,
    refusal TEXT,
    destination TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    expires REAL,
    notice REAL,
    warned INTEGER NOT NULL DEFAULT 0,
    action TEXT,
    reply TEXT,
    host TEXT,
    PRIMARY KEY (message, seq)
) WITHOUT ROWID;
CREATE INDEX recipients_queued ON recipients (destination, due) WHERE status = 0;
CREATE INDEX recipients_leased ON recipients (due) WHERE status = 1;
CREATE INDEX recipients_ended ON recipients (due) WHERE status = 3;
CREATE INDEX recipients_notice ON recipients (notice) WHERE notice IS NOT NULL;
"""

_NEW = """
CREATE TABLE destinations (
    name TEXT PRIMARY KEY,
    ready REAL NOT NULL,
    gate REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX destinations_ready ON destinations (ready);
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    reply TEXT,
    host TEXT
);
CREATE INDEX history_message ON history (message);
CREATE TABLE notes (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX notes_expires ON notes (expires);
CREATE TABLE info (
    name TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
"""

#: Messages whose content is in a file that is still to be removed.
_LEAVING = "CREATE TABLE leaving (message INTEGER PRIMARY KEY);"

_IDENTITY = f"INSERT OR IGNORE INTO info SELECT '{IDENTITY}', lower(hex(randomblob(8)));"

SCHEMA = f"""
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    received REAL NOT NULL,
    envelope TEXT NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL,
    since REAL NOT NULL
);
CREATE INDEX messages_staged ON messages (id) WHERE state = 0;
CREATE TABLE bodies (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);
{_RECIPIENTS}
{_NEW}
{_LEAVING}
{_IDENTITY}
"""

#: Format 1 kept failed recipients without telling their senders: they are told
#: now.  Its times were times of day: the spool's time goes on from there.
_FROM_1 = f"""
ALTER TABLE messages ADD COLUMN since REAL NOT NULL DEFAULT 0;
UPDATE messages SET since = received;
DROP INDEX recipients_due;
ALTER TABLE recipients RENAME TO recipients_1;
{_RECIPIENTS}
INSERT INTO recipients
    (message, seq, status, due, delivery, recipient, marks, attempts, action, reply)
    SELECT message, seq, iif(status = 1, 3, 0), due, delivery, recipient, marks, attempts,
        iif(status = 1, 'failed', NULL), reply
    FROM recipients_1;
DROP TABLE recipients_1;
{_NEW}
INSERT INTO destinations (name, ready) SELECT '', min(due) FROM recipients WHERE status = 0
    HAVING min(due) IS NOT NULL;
INSERT INTO info SELECT name, CAST(strftime('%s', 'now') AS REAL)
    FROM (SELECT 'clock.wall' AS name UNION SELECT 'clock.now');
"""

#: Some columns of each table, those that tell it from the others.
_COLUMNS = {
    "messages": "id, envelope, since",
    "bodies": "id, body",
    "recipients": "message, seq, notice",
    "destinations": "name, gate",
    "history": "message, event",
    "notes": "name, expires",
    "info": "name, value",
    "leaving": "message",
}

#: What makes the next format of each.
_STEPS = {1: _FROM_1, 2: _IDENTITY, 3: _LEAVING}


def prepare(db: sqlite3.Connection) -> None:
    """
    Make the tables, or see that they are ours.

    @raise SpoolError: another version of the program made them.
    @raise sqlite3.Error: they are not whole.
    """
    version = before = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
        return
    while version in _STEPS:
        db.executescript(f"BEGIN; {_STEPS[version]} PRAGMA user_version={version + 1}; COMMIT;")
        version += 1
    if version != VERSION:
        raise SpoolError(
            f"made by another version of the program (format {version}, not {VERSION})"
        )
    if before == 1:
        db.executescript(
            "PRAGMA temp_store=FILE; PRAGMA auto_vacuum=INCREMENTAL; VACUUM;"
            "PRAGMA temp_store=MEMORY;"
        )
    _look(db)


def _look(db: sqlite3.Connection) -> None:
    """
    See that all tables are there: of a damaged database some may be empty, or
    another one's.
    """
    for table, columns in _COLUMNS.items():
        db.execute(f"SELECT {columns} FROM {table} LIMIT 0")
    if db.execute("SELECT 1 FROM info WHERE name = ?", (IDENTITY,)).fetchone() is None:
        error = sqlite3.DatabaseError("the number that tells the spool from others is lost")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def identity(db: sqlite3.Connection) -> str:
    """
    The spool's own random number: sixteen hexadecimal digits.

    @raise SpoolError: it has none.
    """
    found = db.execute("SELECT value FROM info WHERE name = ?", (IDENTITY,)).fetchone()
    if found is None or not isinstance(found[0], str):
        raise SpoolError("the spool has lost the number that tells it from others")
    return found[0]
