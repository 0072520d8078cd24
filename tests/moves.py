"""
A queue to be moved: messages whose recipients are in all states.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.moving import QueueEnd, move
from deferrals.spool.rows import DAMAGED, ENDED, HELD, LEASED, QUEUED, RELEASED, Lease, insertion
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.moving import SqliteEnd, make
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage

LARGE = 700 * 1024


class MoveCase(SynchronousTestCase):
    """
    Has ends, fills them, and looks at what they have.
    """

    def sqlite(self) -> SqliteEnd:
        """
        A new one.
        """
        directory = self.mktemp()
        make(directory)
        end = SqliteEnd(directory)
        self.addCleanup(end.close)
        return end

    def fill(self, end: SqliteEnd) -> None:
        """
        Messages whose recipients are in all states, and a large one.
        """
        end._run(self._fill)
        large = max(one for one in end.numbers(-1, 1000) if end.known(one) == self.large)
        with open(end._files.body(large), "wb") as file:
            file.write(b"x" * LARGE)

    def _fill(self, ledger: SqliteLedger) -> None:
        for number, body in enumerate((b"one\r\n", b"two\r\n", b"x" * LARGE)):
            envelope, message = makeEnvelope(), makeMessage(body)
            if number == 2:
                self.large = message.size, message.digest
            to = makeAddressees("a@x.example", "b@x.example", "c@x.example", "d@x.example")
            lease = Lease("another", ledger.now + 1000)
            since = ledger.now - 500
            insert = insertion(envelope, message, to, state=RELEASED, now=since, lease=lease)
            insert.body = body if number < 2 else None
            ledger.insert([insert])
            ledger.db.execute(
                "UPDATE recipients SET destination = 'x', attempts = seq + 1,"
                " expires = ? + 3000 + seq, due = ? + 100 + seq, owner = NULL,"
                f" status = CASE seq WHEN 0 THEN {QUEUED} WHEN 1 THEN {HELD} WHEN 2 THEN {ENDED}"
                f" ELSE {DAMAGED} END, action = iif(seq = 2, 'failed', NULL),"
                ' reply = iif(seq = 2, \'[550, "5.1.1", "no"]\', NULL)'
                " WHERE message = ?",
                (ledger.now, ledger.now, envelope.transaction),
            )
            if number == 1:
                ledger.db.execute(
                    f"UPDATE recipients SET status = {LEASED}, owner = 'dead' WHERE message = ?",
                    (envelope.transaction,),
                )

    def shown(self, end: Any, limit: int = 100) -> list[Any]:
        """
        What an end has, but for moments that have passed meanwhile.
        """
        found = []
        for number in end.numbers(-1, limit):
            one = end.take(number)
            with one.message.open() as file:
                content = file.read()
            rows = [
                (
                    *(row.seq, row.status, row.destination, row.attempts, row.action, row.reply),
                    *(row.delivery, row.recipient, row.marks, row.refusal, row.host, row.warned),
                    *(round(row.due, -1), None if row.expires is None else round(row.expires, -1)),
                )
                for row in one.rows
            ]
            envelope = (one.envelope[0], round(one.envelope[1], 3), one.envelope[2])
            found.append((envelope, round(one.age, -1), rows, content))
        return found

    def moved(self, source: QueueEnd, target: QueueEnd) -> list[str]:
        """
        Why messages stay.
        """
        return [why for _, why in move(source, target)]
