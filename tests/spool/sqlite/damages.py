"""
Damages a database in many ways, carries over what can be read, and compares that
with what was there::

    python -m tests.spool.sqlite.damages 500

A page is whole where its octets are what they were.  Every message all of whose
pages are whole must come over, with its content and its recipients; what was
delivered must not come back (but held, where nothing says any longer that its
page was free); no content may be another message's.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable

import attrs

from deferrals.model.envelope import Envelope
from deferrals.spool.batch import WriteBatch
from deferrals.spool.message import Message
from deferrals.spool.rows import DAMAGED, HELD, QUEUED, Lease, insertion
from deferrals.spool.sqlite import carving, repair
from deferrals.spool.sqlite.cells import treePage
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.pages import Pages
from deferrals.spool.sqlite.recovery import saveClock
from deferrals.spool.sqlite.schema import prepare
from deferrals.spool.sqlite.writing import apply
from deferrals.testing import makeAddressees, makeEnvelope

#: What is damaged: a kind of page, or any octets.
TARGETS = (
    *("header", "schema", "map", "table inner", "table leaf", "index inner", "index leaf"),
    *("rest", "free", "anywhere", "end"),
)

#: How.
WAYS = ("zeroes", "garbage", "octets", "swap", "cut", "bits")

#: Of content, in octets.
SIZES = (20, 900, 3000, 9000, 40_000, 150_000)

MESSAGES = 90


@attrs.define
class Original:
    """
    A database before it is damaged.

    @ivar path: its file.
    @ivar contents: the content of each message, by number.
    @ivar recipients: the places of those that each has.
    @ivar depends: the pages that each lies in.
    @ivar kinds: the pages of each kind.
    @ivar pages: the octets of all pages.
    """

    path: str
    contents: dict[int, bytes] = attrs.field(factory=dict)
    recipients: dict[int, set[int]] = attrs.field(factory=dict)
    depends: dict[int, set[int]] = attrs.field(factory=dict)
    kinds: dict[str, list[int]] = attrs.field(factory=dict)
    pages: list[bytes] = attrs.field(factory=list)


def _content(dice: random.Random) -> bytes:
    size = dice.choice(SIZES)
    return b"Subject: x\r\n\r\n" + dice.randbytes(dice.randint(size // 2, size))


def _add(db: sqlite3.Connection, envelope: Envelope, body: bytes, count: int) -> None:
    message = Message(len(body), hashlib.sha256(body).digest(), body, None, body[:100])
    names = [f"{envelope.id.lower()}-{place}@b.example" for place in range(count)]
    insert = insertion(
        envelope, message, makeAddressees(*names), state=1, now=0.0, lease=Lease("another", 0.0)
    )
    apply(WriteBatch(inserts=[insert]), db)
    db.execute(
        f"UPDATE recipients SET status = {QUEUED}, owner = NULL, due = 5.0, destination = ?"
        " WHERE message = ?",
        (f"mx {envelope.id[-1]}", envelope.transaction),
    )
    SqliteLedger(db, 5.0).waitFor({f"mx {envelope.id[-1]}": 5.0})


def make(path: str, seed: int) -> Original:
    """
    A database that has been in use: a third of what came has left it.
    """
    dice = random.Random(seed)
    original = Original(path)
    db = connect(path)
    prepare(db)
    for _ in range(MESSAGES):
        envelope, body, count = makeEnvelope(), _content(dice), dice.choice((1, 1, 2, 30))
        _add(db, envelope, body, count)
        original.contents[envelope.transaction] = body
        original.recipients[envelope.transaction] = set(range(count))
        if dice.random() < 0.3:
            gone = dice.choice(list(original.contents))
            db.execute("DELETE FROM recipients WHERE message = ?", (gone,))
            leave(db, gone)
            del original.contents[gone], original.recipients[gone]
    _deliver(db, original, dice)
    saveClock(db, 1_000_000_000.0, 5.0)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    _look(original)
    return original


def _deliver(db: sqlite3.Connection, original: Original, dice: random.Random) -> None:
    """
    Half of the messages that have many recipients have reached most of them.
    """
    for number, places in original.recipients.items():
        if len(places) > 2 and dice.random() < 0.5:
            gone = set(dice.sample(sorted(places), len(places) - 1))
            db.executemany(
                "DELETE FROM recipients WHERE message = ? AND seq = ?",
                [(number, place) for place in gone],
            )
            places -= gone


def _look(original: Original) -> None:
    """
    Find which pages are what, and what lies in them.
    """
    pages = Pages(original.path, f"{original.path}-wal")
    usage = carving.PageUsage(pages)
    original.kinds = {"header": [1], "schema": [1], "map": [2], "free": [], "rest": []}
    original.pages = [pages.get(number) for number in range(pages.count + 1)]
    original.depends = {number: set() for number in original.contents}
    names = {2: "index inner", 5: "table inner", 10: "index leaf", 13: "table leaf"}
    for number in range(2, pages.count + 1):
        state = usage.of(number)
        if state in (carving._FREE, carving._REST):
            original.kinds["free" if state == carving._FREE else "rest"].append(number)
            continue
        read: list[int] = []

        def get(of: int, read: list[int] = read) -> bytes:
            read.append(of)
            return pages.get(of)

        page = pages.get(number)
        original.kinds.setdefault(names[page[0]], []).append(number)
        found = treePage(page, pages.usable, get)
        assert found is not None
        for cell in found.cells:
            table, record = carving._table(found.kind, cell)
            if table in ("messages", "recipients", "bodies"):
                of = record[0]
                assert isinstance(of, int)
                original.depends[of] |= {number, *(read if table == "bodies" else ())}
    pages.close()


def _garbage(dice: random.Random, size: int) -> bytes:
    return dice.randbytes(size)


def damage(original: Original, path: str, dice: random.Random) -> str:
    """
    Damage a copy.

    @return: how.
    """
    size = len(original.pages[1])
    target, way = dice.choice(TARGETS), dice.choice(WAYS)
    length = os.path.getsize(path)
    if target == "anywhere" or not original.kinds.get(target, ["end"]):
        offset, octets = dice.randrange(length), dice.randrange(1, 4 * size)
    elif target == "end":
        offset = length - dice.randrange(1, length // 20)
        octets = length - offset
    else:
        offset = (dice.choice(original.kinds[target]) - 1) * size
        octets = 100 if target == "header" else size
    with open(path, "r+b") as file:
        file.seek(offset)
        if way == "cut":
            # What is behind it goes, too: mostly little.
            least = length * 98 // 100 if dice.random() < 0.7 else length // 3
            file.truncate(max(offset, least))
        elif way == "swap":
            _swap(file, offset // size, dice.randrange(length // size), size)
        elif way in ("octets", "bits"):
            place = offset + dice.randrange(max(1, min(octets, size)))
            file.seek(place)
            file.write(_garbage(dice, 8 if way == "octets" else 1))
        else:
            file.write(bytes(octets) if way == "zeroes" else _garbage(dice, octets))
    return f"{way} in {target}"


def _swap(file: object, one: int, other: int, size: int) -> None:
    assert hasattr(file, "seek") and hasattr(file, "read") and hasattr(file, "write")
    octets = []
    for number in (one, other):
        file.seek(number * size)
        octets.append(file.read(size))
    for number, page in zip((other, one), octets, strict=True):
        file.seek(number * size)
        file.write(page)


def compare(original: Original, path: str) -> tuple[list[str], Counter[str]]:
    """
    Carry over what can be read.

    @return: what is wrong, and how much was carried over.
    """
    damaged = Pages(path, f"{path}-wal")
    broken = {
        number
        for number in range(1, len(original.pages))
        if damaged.get(number) != original.pages[number]
    }
    damaged.close()
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        report = repair.carry(path, f"{path}-wal", db, 5.0, lambda number: False)
        wrong = list(_wrong(original, db, report, broken))
    counts = Counter(
        carried=len(report.whole) - len(report.held),
        held=len(report.held),
        incomplete=sum(map(len, report.incomplete.values())),
        whole=sum(not pages & broken for pages in original.depends.values()),
        messages=len(original.contents),
    )
    return wrong, counts


def _wrong(
    original: Original, db: sqlite3.Connection, report: carving.Report, broken: set[int]
) -> list[str]:
    wrong, whole = [], set(report.whole)
    for number, pages in original.depends.items():
        if pages & broken:
            continue
        if number not in whole:
            wrong.append(f"{number} was not carried over, although its pages are whole")
        there = db.execute("SELECT seq FROM recipients WHERE message = ?", (number,))
        if not original.recipients[number] <= {seq for (seq,) in there}:
            wrong.append(f"{number} has lost recipients")
    for number, seq in db.execute(
        f"SELECT message, seq FROM recipients WHERE status NOT IN ({HELD}, {DAMAGED})"
    ):
        if seq not in original.recipients.get(number, ()):
            wrong.append(f"recipient {seq} of {number} had left, and came back")
    for number, body in db.execute("SELECT id, body FROM bodies"):
        if number in original.contents and body != original.contents[number]:
            wrong.append(f"{number} has another content")
    for number in whole:
        found = db.execute(
            "SELECT (SELECT COUNT(*) FROM messages WHERE id = ?),"
            " (SELECT COUNT(*) FROM bodies WHERE id = ?)",
            (number, number),
        ).fetchone()
        if found != (1, 1):
            wrong.append(f"{number} is there {found} times")
    return wrong


def run(count: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """
    @return: what went wrong.
    """
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="deferrals-damages-") as directory:
        for number in range(count):
            if number % 25 == 0:
                name = os.path.join(directory, f"original-{number}")
                original = make(name, seed + number)
            path = os.path.join(directory, "damaged")
            shutil.copy(original.path, path)
            dice = random.Random(f"{seed}-{number}")
            hows = [damage(original, path, dice) for _ in range(dice.choice((1, 1, 2, 3)))]
            found, more = compare(original, path)
            counts += more
            ways.update(hows)
            if found:
                wrong.append(f"damage {number} ({', '.join(hows)}): {'; '.join(found[:5])}")
                say(wrong[-1])
    for how, times in sorted(ways.items()):
        say(f"{times:4} {how}")
    say(f"{count} damages: {dict(counts)}; {len(wrong)} went wrong")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    return 1 if run(arguments.count, arguments.seed, print) else 0


if __name__ == "__main__":
    sys.exit(main())
