"""
Fills a spool with many recipients quickly, and measures how it bears them.

    python -m tests.crash.fill 1000000

prints how long a start takes, a claim, and a message on its way in, and how much
memory.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from deferrals.model.ids import TransactionIds
from deferrals.spool import rows
from deferrals.spool.rows import QUEUED, RELEASED
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.schema import prepare
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope

BODY = b"Subject: one of many\r\n\r\nhello\r\n"


def fill(directory: str, count: int, host: str, delivery: str = "*", due: float = 0.0) -> None:
    """
    @param count: messages, each with one recipient, for one destination.
    @param due: in the spool's time.
    """
    os.makedirs(os.path.join(directory, "bodies"), exist_ok=True)
    db = connect(os.path.join(directory, "spool.sqlite"))
    db.execute("PRAGMA synchronous=OFF")
    prepare(db)
    ids, now, end = TransactionIds(3), time.time(), due + 432000.0
    envelope = rows._encode(rows.envelopeToJSON(makeEnvelope()))
    (addressee,) = makeAddressees(f"dead-NUMBER@{host}")
    recipient = rows._encode(rows.recipientToJSON(addressee.recipient))
    digest, numbers = hashlib.sha256(BODY).digest(), [ids.next(now + n / 1e3) for n in range(count)]

    def messages() -> Iterator[tuple[Any, ...]]:
        for number in numbers:
            yield (number, RELEASED, now, envelope, len(BODY), digest, 0.0)

    def recipients() -> Iterator[tuple[Any, ...]]:
        for number in numbers:
            to = recipient.replace("NUMBER", str(number))
            yield (number, QUEUED, due, delivery, to, f"hop {host}", 1, end, end)

    db.execute("BEGIN")
    db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", messages())
    db.executemany("INSERT INTO bodies VALUES (?, ?)", ((number, BODY) for number in numbers))
    db.executemany(
        "INSERT INTO recipients (message, seq, status, due, delivery, recipient, destination,"
        " attempts, expires, notice) VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
        recipients(),
    )
    db.execute(
        "INSERT OR REPLACE INTO destinations (name, ready) VALUES (?, ?)", (f"hop {host}", due)
    )
    db.execute("COMMIT")
    db.close()


def _octets() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@inlineCallbacks
def measure(reactor: Any, directory: str) -> Any:
    """
    Print what a spool takes.
    """
    before = _octets()
    spool = SqliteSpool(directory, reactor, deferToThread, time.time)

    def passed(what: str, began: float) -> None:
        print(f"{what}: {time.monotonic() - began:.3f} s")

    began = time.monotonic()
    yield spool.open()
    passed("open", began)
    for _ in range(3):
        began = time.monotonic()
        works = yield spool.claim(100, {}, 20)
        passed(f"a claim of {len(works)}", began)
    began = time.monotonic()
    for _ in range(100):
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(BODY)
        message = yield writer.finish()
        work = yield spool.stage(envelope, message, makeAddressees("a@example.net"))
        spool.release(work, {})
    passed("100 messages in, one after the other", began)
    began = time.monotonic()
    yield spool.notices(50)
    passed("a look for late ones", began)
    print(f"memory: {before:.0f} MiB before, {_octets():.0f} MiB at most")
    yield spool.close()


def main() -> None:
    """
    C{python -m tests.crash.fill COUNT [DIRECTORY]}.
    """
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if sys.argv[2:] else None) as directory:
        spool = os.path.join(directory, "spool")
        os.mkdir(spool, 0o700)
        began = time.monotonic()
        fill(spool, count, "x.example")
        print(f"filled with {count} recipients: {time.monotonic() - began:.0f} s")
        react(measure, [spool])


if __name__ == "__main__":
    main()
