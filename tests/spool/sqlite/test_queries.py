"""
The queue as an operator sees it.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from deferrals.model.ids import formatId
from deferrals.model.reply import Reply
from deferrals.model.selection import Selection
from deferrals.spool import shown
from deferrals.spool.ledger import HistoryEntry
from deferrals.spool.rows import DAMAGED, HELD, LEASED, STAGED, replyText
from deferrals.spool.sqlite import queries
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.schema import prepare
from tests.databases import DatabaseCase

REPLY = Reply(451, "4.3.0", "later")


class RecipientsTests(DatabaseCase):
    """
    L{queries.recipients}, at the time 100.
    """

    def listed(self, *, limit: int = 10, after: Any = None, **selection: Any) -> Any:
        return queries.recipients(
            self.db, Selection(**selection), limit=limit, after=after, now=100.0
        )

    def test_shown(self) -> None:
        """What is said of a recipient."""
        number = self.add(
            "a@b.example",
            due=160.0,
            expires=1000.0,
            destination="mx b.example",
            attempts=2,
            reply=replyText(REPLY),
            host="mx",
        )
        ((one,), after) = self.listed()
        self.assertIsNone(after)
        self.assertEqual(
            one,
            {
                "id": formatId(number),
                "seq": 0,
                "sender": "sender@example.com",
                "recipient": "a@b.example",
                "status": "queued",
                "delivery": "box",
                "destination": "mx b.example",
                "attempts": 2,
                "age_seconds": 100.0,
                "due_seconds": 60.0,
                "expires_seconds": 900.0,
                "action": None,
                "reply": "451 4.3.0 later",
                "host": "mx",
                "size": 24,
            },
        )

    def test_status(self) -> None:
        """A message that is staged is not ours yet, whatever its recipients' rows say."""
        self.add("a@b.example", status=HELD)
        self.add("a@b.example", status=LEASED, state=STAGED)
        self.assertEqual([one["status"] for one in self.listed()[0]], ["held", "staged"])

    def test_pages(self) -> None:
        """A page ends where the next one begins, in the middle of a message, too."""
        self.add("a@b.example", "c@b.example")
        self.add("d@b.example")
        seen: list[str] = []
        after = None
        while True:
            found, after = self.listed(limit=1, after=after)
            seen += [one["recipient"] for one in found]
            if after is None:
                break
        self.assertEqual(seen, ["a@b.example", "c@b.example", "d@b.example"])

    def test_slices(self) -> None:
        """A call looks at so many recipients, and no more, if none is wanted."""
        self.patch(queries, "SLICE", 2)
        number = self.add("a@b.example", "c@b.example", "d@b.example")
        self.assertEqual(self.listed(status="held"), ([], (number, 1)))
        self.assertEqual(self.listed(status="held", after=(number, 1)), ([], None))

    def test_ids(self) -> None:
        """Only the messages that are named, also where a name is none."""
        wanted, _ = self.add("a@b.example"), self.add("c@d.example")
        for ids, expected in (
            ((formatId(wanted),), ["a@b.example"]),
            ((formatId(wanted), "?"), ["a@b.example"]),
            (("?",), []),
        ):
            found = [one["recipient"] for one in self.listed(ids=ids)[0]]
            self.assertEqual(found, expected)

    def test_damaged(self) -> None:
        """What cannot be read is shown as such, beside what can."""
        number = self.add("a@b.example", "c@b.example")
        self.change(number, 0, recipient="?", reply="[")
        self.db.execute("UPDATE messages SET envelope = '?'")
        first, second = self.listed()[0]
        unreadable = "(cannot be read)"
        self.assertEqual((first["recipient"], first["reply"]), (unreadable, unreadable))
        self.assertEqual((second["recipient"], second["sender"]), ("c@b.example", unreadable))

    def test_strangeStatus(self) -> None:
        """A state that there is not is shown as its number, and is a problem."""
        number = self.add("a@b.example", status=77)
        self.assertEqual([one["status"] for one in self.listed()[0]], ["77"])
        self.assertEqual(queries.numbers(self.db, 0.0)["recipients"], {"77": 1})
        found, _, _ = queries.problems(self.db, number - 1, str)
        self.assertEqual([one["problem"] for one in found], ["recipient 0 has the status 77"])


class MessageTests(DatabaseCase):
    """
    L{queries.message} and L{queries.content}.
    """

    def test_shown(self) -> None:
        """A message with its recipients and its history."""
        number = self.add("a@b.example", "c@b.example")
        SqliteLedger(self.db, 0.0, wall=2e9).tell(
            [HistoryEntry(number, 1, "retry", str(REPLY), "mx")]
        )
        found = queries.message(self.db, number, 5.0)
        assert found is not None
        self.assertEqual(
            (found["id"], found["gone"], found["released"]), (formatId(number), False, True)
        )
        self.assertEqual([one["seq"] for one in found["recipients"]], [0, 1])
        self.assertEqual(found["envelope"]["sender"][:2], ["sender", "example.com"])
        entry = {"seq": 1, "time": 2e9, "event": "retry", "reply": str(REPLY), "host": "mx"}
        self.assertEqual(found["history"], [entry])

    def test_large(self) -> None:
        """All recipients are shown, however many one call looks through."""
        self.patch(queries, "SLICE", 2)
        number = self.add(*(f"r{count}@b.example" for count in range(5)))
        found = queries.message(self.db, number, 5.0)
        assert found is not None
        self.assertEqual([one["seq"] for one in found["recipients"]], list(range(5)))

    def test_gone(self) -> None:
        """Of a message that has left only its history is known; of others nothing."""
        SqliteLedger(self.db, 0.0, wall=2e9).tell([HistoryEntry(7, 0, "delivered")])
        found = queries.message(self.db, 7, 5.0)
        assert found is not None
        self.assertTrue(found["gone"])
        self.assertEqual(len(found["history"]), 1)
        self.assertIsNone(queries.message(self.db, 8, 5.0))

    def test_damaged(self) -> None:
        """An envelope that cannot be read hides nothing else."""
        number = self.add("a@b.example")
        self.db.execute("UPDATE messages SET envelope = '?'")
        found = queries.message(self.db, number, 5.0)
        assert found is not None
        self.assertEqual(found["envelope"], "(cannot be read)")
        self.assertEqual(len(found["recipients"]), 1)

    def test_content(self) -> None:
        """A content is in its row, or in the first file that is there."""
        number = self.add("a@b.example")
        content = queries.content(self.db, number, ())
        assert content is not None
        self.assertTrue(content.isIntact())
        self.db.execute("DELETE FROM bodies")
        path = os.path.abspath(self.mktemp())
        self.assertIsNone(queries.content(self.db, number, (path,)))
        with open(path, "wb") as file:
            file.write(b"other")
        content = queries.content(self.db, number, (f"{path}.none", path))
        assert content is not None
        self.assertFalse(content.isIntact())
        self.assertIsNone(queries.content(self.db, number + 1, (path,)))


class ProblemsTests(DatabaseCase):
    """
    L{queries.problems}: what C{deferrals queue check} finds.
    """

    def problems(self, path: str = "/nowhere") -> list[str]:
        found, _, _ = queries.problems(self.db, None, lambda number: path)
        return [one["problem"] for one in found]

    def test_sound(self) -> None:
        """Nothing is wrong with what is as it came."""
        self.add("a@b.example")
        self.assertEqual(self.problems(), [])

    def test_wrong(self) -> None:
        """Each thing that is wrong with a message is named."""
        for sql, expected in (
            ("UPDATE messages SET envelope = '?'", "its envelope cannot be read"),
            ("UPDATE recipients SET recipient = '?'", "recipient 0 cannot be read"),
            ("UPDATE bodies SET body = x'00'", "its content is not what was stored"),
            ("DELETE FROM bodies", "its content is missing"),
        ):
            self.add("a@b.example")
            self.db.execute(sql)
            (found,) = self.problems()
            self.assertIn(expected, found)
            self.assertNotIn("moved aside", found)
            self.db.execute(f"UPDATE recipients SET status = {DAMAGED}")
            self.assertTrue(self.problems()[0].endswith("; it was moved aside"))
            for table in ("messages", "bodies", "recipients"):
                self.db.execute(f"DELETE FROM {table}")

    def test_pages(self) -> None:
        """A call compares so many messages, and says where to go on."""
        self.patch(queries, "CHECKED", 2)
        numbers = [self.add("a@b.example") for _ in range(3)]
        found, count, after = queries.problems(self.db, None, str)
        self.assertEqual((found, count, after), ([], 2, numbers[1]))
        self.assertEqual(queries.problems(self.db, after, str), ([], 1, None))


class NumbersTests(DatabaseCase):
    """
    L{queries.numbers}.
    """

    def test_numbers(self) -> None:
        """How many, in which state, and how old."""
        empty = {
            **{"messages": 0, "recipients": {}, "deliveries": [], "destinations": []},
            "oldest_seconds": 0.0,
        }
        self.assertEqual(queries.numbers(self.db, 5.0), empty)
        self.add("a@b.example", "c@b.example")
        self.add("a@b.example", status=HELD)
        found = queries.numbers(self.db, 5.0)
        deliveries, destinations = found.pop("deliveries"), found.pop("destinations")
        self.assertEqual(
            found, {"messages": 2, "recipients": {"queued": 2, "held": 1}, "oldest_seconds": 5.0}
        )
        counts = {(one["status"], one["recipients"], one["oldest_seconds"]) for one in deliveries}
        self.assertEqual(counts, {("queued", 2, 5.0), ("held", 1, 5.0)})
        self.assertEqual([one["recipients"] for one in destinations], [2])

    def test_destinations(self) -> None:
        """Those that most wait for, the most first: in the order of the rows."""
        self.add(*(f"{one}@b.example" for one in range(3)))
        self.db.execute("UPDATE recipients SET destination = 'b'")
        self.add("a@a.example")
        self.db.execute("UPDATE recipients SET destination = 'a' WHERE destination = ''")
        found: Any = queries.numbers(self.db, 7.0)["destinations"]
        self.assertEqual([tuple(one.values()) for one in found], [("b", 3, 7.0), ("a", 1, 7.0)])
        plan = self.db.execute(
            f"EXPLAIN QUERY PLAN {shown.DESTINATIONS.format(age='since')}"
        ).fetchall()
        self.assertNotIn("recipients_queued", str(plan))


class ReadOnlyTests(DatabaseCase):
    """
    L{queries.readOnly}.
    """

    def test_readOnly(self) -> None:
        """Nothing is written by it, whatever characters the path has."""
        path = os.path.abspath("a%20b?c#d.sqlite")
        db = sqlite3.connect(path, isolation_level=None)
        prepare(db)
        db.close()
        reader = queries.readOnly(path)
        self.addCleanup(reader.close)
        self.assertEqual(queries.numbers(reader, 0.0)["messages"], 0)
        with self.assertRaises(sqlite3.OperationalError):
            reader.execute("DELETE FROM notes")
