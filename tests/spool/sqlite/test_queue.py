"""
The operator's view of a spool: what is selected, changed, and said on the line.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import IQueue, Work
from deferrals.model.disposition import LEASE_SECONDS, NotifyThenRemove, Remove, Undeliverable
from deferrals.model.selection import Selection
from deferrals.operator.control import ControlFactory, Operator
from deferrals.spool import changes
from deferrals.spool.changes import NUMBERS_SECONDS
from deferrals.spool.sqlite import queries
from deferrals.spool.sqlite.diskspace import NoRoom
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import LATER
from tests.spool.sqlite import test_spool


class QueueTests(SynchronousTestCase):
    """
    L{SqliteQueue} and L{Operator}.
    """

    def setUp(self) -> None:
        self.spools = test_spool.SqliteSpoolTests()
        self.spools.mktemp = self.mktemp  # type: ignore[method-assign]
        self.spools.addCleanup = self.addCleanup  # type: ignore[method-assign]
        self.spool: SqliteSpool = self.spools.makeSpool()
        self.woken: list[bool] = []
        self.left: list[Any] = []
        self.active = 0
        self.queue = SqliteQueue(
            self.spool.store,
            self.spools.inThread,
            changed=lambda: self.woken.append(True),
            leaving=self.left.append,
        )

    def result(self, d: Any) -> Any:
        return self.spools.reactor.wait(d)

    def found(self, **conditions: Any) -> list[str]:
        found, after = self.result(self.queue.recipients(Selection(**conditions), 100, None))
        self.assertIsNone(after)
        return [one["recipient"] for one in found]

    def change(self, command: str, **conditions: Any) -> int:
        d = self.queue.change(command, Selection(**conditions), None)
        count, self.active, after = self.result(d)
        self.assertIsNone(after)
        number: int = count
        return number

    def test_provides(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IQueue, self.queue))

    def test_pages(self) -> None:
        """A long queue is read in parts, each recipient once."""
        self.patch(queries, "SLICE", 3)
        for number in range(8):
            self.spools.queued(self.spool, f"{number}@x.example")
        found: list[str] = []
        after: Any = None
        while True:
            page, after = self.result(self.queue.recipients(Selection(), 2, after))
            found += [one["recipient"][0] for one in page]
            if after is None:
                break
        self.assertEqual(sorted(found), list("01234567"))

    def test_numbers(self) -> None:
        """However many ask: a spool that takes long to count is counted seldom."""
        counted, numbers = [], queries.numbers

        def slow(db: Any, now: float) -> Any:
            counted.append(now)
            self.spools.clock.advance(1)
            return numbers(db, now)

        self.patch(queries, "numbers", slow)
        for _ in range(5):
            self.assertEqual(self.result(self.queue.numbers())["messages"], 0)
        self.assertEqual(len(counted), 1)
        self.spools.clock.advance(NUMBERS_SECONDS)
        self.result(self.queue.numbers())
        self.assertEqual(len(counted), 2)

    def test_selection(self) -> None:
        """All conditions have to be met."""
        self.spools.queued(self.spool, "a@x.example", "hop x")
        self.spools.clock.advance(100)
        self.spools.queued(self.spool, "b@y.example", "hop y")
        for conditions, names in (
            ({"recipient": "*@X.example"}, ["a@x.example"]),
            ({"destination": "* y"}, ["b@y.example"]),
            ({"olderSeconds": 50.0}, ["a@x.example"]),
            ({"newerSeconds": 50.0, "destination": "hop x"}, []),
            ({"sender": ""}, []),
            ({"status": "held"}, []),
            ({"ids": ("0000000000000",)}, []),
        ):
            self.assertEqual(self.found(**conditions), names, conditions)

    def test_hold(self) -> None:
        """A recipient that is held is not due, until released; and does not expire meanwhile."""
        self.spools.queued(self.spool, "a@x.example", seconds=1.0)
        self.assertEqual(self.change("hold"), 1)
        self.spools.clock.advance(2000)
        self.assertEqual(self.spools.claimed(self.spool), [])
        self.assertEqual(self.spools.told(self.spool), [])
        self.assertEqual(self.change("release"), 1)
        self.assertEqual(len(self.spools.claimed(self.spool)), 1)
        self.assertEqual(len(self.woken), 2)

    def test_retry(self) -> None:
        """A retry is due now, even where the destination is left alone."""
        self.spools.queued(self.spool, "a@x.example", "dead", 5000.0)
        self.spool.backOff("dead", 5000.0)
        self.assertEqual(self.change("retry"), 1)
        self.assertEqual(len(self.spools.claimed(self.spool)), 1)

    def test_active(self) -> None:
        """What is being delivered, or not ours yet, is left alone, and counted."""
        self.spools.owned(self.spool, "a@x.example")
        self.spools.staged(self.spool, "b@x.example")
        for command in ("retry", "release", "remove"):
            self.assertEqual((self.change(command), self.active), (0, 2))
        self.assertEqual(self.result(self.spool.waiting()), (2, 2))

    def holding(self) -> Work:
        """
        A message whose two recipients are being delivered when they are held.
        """
        work = self.spools.owned(self.spool, "a@x.example", "b@x.example")
        self.spools.clock.advance(1)  # it is not staged any longer
        self.assertEqual((self.change("hold"), self.active), (2, 2))
        return work

    def test_holdActive(self) -> None:
        """
        What is being delivered when it is held is shown as held; what that delivers leaves,
        the rest is not due, until it is released.
        """
        work = self.holding()
        self.assertEqual(self.found(status="held"), ["a@x.example", "b@x.example"])
        self.assertEqual(self.result(self.queue.numbers())["recipients"], {"held": 2})
        one, two = work.addressees
        self.result(self.spool.record(work, {one: Remove(), two: self.spools.waits(seconds=0.0)}))
        self.spools.clock.advance(1000)
        self.assertEqual(self.spools.claimed(self.spool), [])
        self.assertEqual(self.found(status="held"), ["b@x.example"])
        self.assertEqual((self.change("release"), self.active), (1, 0))
        (again,) = self.spools.claimed(self.spool)
        self.assertEqual(again.addressees[0].attempts, 1)
        self.result(self.spool.record(again, {two: self.spools.waits(seconds=0.0)}))
        self.assertEqual(len(self.spools.claimed(self.spool)), 1)  # it is held once

    def test_holdActiveDied(self) -> None:
        """The same where the process dies before the attempt has ended."""
        self.holding()
        self.spool = self.spools.reopen(self.spool)  # type: ignore[assignment]
        self.assertEqual(self.spools.claimed(self.spool), [])
        self.queue = SqliteQueue(self.spool.store, self.spools.inThread)
        self.assertEqual(self.found(status="held"), ["a@x.example", "b@x.example"])

    def test_holdActiveLate(self) -> None:
        """The same where the lease has run out."""
        self.holding()
        self.spools.clock.advance(LEASE_SECONDS + 1)
        self.assertEqual(self.spools.claimed(self.spool), [])
        self.assertEqual(self.change("release"), 2)
        self.assertEqual(len(self.spools.claimed(self.spool)), 1)

    def test_holdActiveLateDelivered(self) -> None:
        """What was delivered although its lease had run out is not delivered again."""
        work = self.holding()
        self.spools.clock.advance(LEASE_SECONDS + 1)
        self.assertEqual(self.spools.claimed(self.spool), [])
        one, two = work.addressees
        self.result(self.spool.record(work, {one: Remove(), two: self.spools.waits(seconds=0.0)}))
        self.assertEqual(self.found(status="held"), ["b@x.example"])
        self.assertEqual(self.change("release"), 1)
        (again,) = self.spools.claimed(self.spool)
        self.assertEqual([addressee.seq for addressee in again.addressees], [two.seq])

    def test_holdActiveEnds(self) -> None:
        """What is refused for good while it is to be held ends: its sender is told."""
        work = self.holding()
        ended = NotifyThenRemove("failed", LATER)
        self.result(self.spool.record(work, dict.fromkeys(work.addressees, ended)))
        self.assertEqual(self.found(status="ended"), ["a@x.example", "b@x.example"])

    def test_holdStaged(self) -> None:
        """What is not ours yet is held when it is."""
        work = self.spools.staged(self.spool, "a@x.example")
        self.assertEqual((self.change("hold"), self.active), (1, 1))
        self.spool.release(work, {work.addressees[0]: self.spools.waits(seconds=0.0)})
        self.assertEqual(self.spools.claimed(self.spool), [])
        self.assertEqual(self.found(status="held"), ["a@x.example"])

    def test_leaving(self) -> None:
        """What is to be held, or removed, is not to wait for its turn elsewhere."""
        work = self.spools.owned(self.spool, "a@x.example")
        for command in ("retry", "release", "hold", "remove"):
            self.change(command)
        self.assertEqual(self.left, [{work.envelope.transaction}] * 2)

    def test_stuck(self) -> None:
        """A retry of somebody whose sender could not be told is another try to tell."""
        work = self.spools.owned(self.spool, "a@x.example")
        self.result(
            self.spool.record(work, {work.addressees[0]: NotifyThenRemove("failed", LATER)})
        )
        (telling,) = self.result(self.spool.notices(1, work.envelope.transaction))
        self.result(self.spool.record(telling, {telling.addressees[0]: Undeliverable(1000.0)}))
        self.assertEqual(self.change("retry", status="stuck"), 1)
        self.assertEqual(self.spools.told(self.spool), [("a@x.example", "failed")])

    def test_remove(self) -> None:
        """What is removed is gone, with its message when nobody is left."""
        work = self.spools.owned(self.spool, "a@x.example", "b@x.example")
        waits = dict.fromkeys(work.addressees, self.spools.waits())
        self.result(self.spool.record(work, waits))
        self.assertEqual(self.change("remove", recipient="a@*"), 1)
        self.assertEqual(self.result(self.spool.waiting()), (1, 1))
        self.assertEqual(self.change("remove"), 1)
        self.assertEqual(self.result(self.spool.waiting()), (0, 0))
        shown = self.result(self.queue.show(work.envelope.transaction))
        self.assertTrue(shown["gone"])
        self.assertIn("remove by operator", [one["event"] for one in shown["history"]])

    def test_pieces(self) -> None:
        """On a full disk as many are removed at once as the log has room for."""
        for number in range(20):
            self.spools.queued(self.spool, f"a{number}@x.example")
        sizes, made = [], changes.Changes.make

        def make(self: changes.Changes, command: str, keys: Any) -> int:
            sizes.append(len(keys))
            if len(keys) > 2:
                raise NoRoom("full")
            return made(self, command, keys)

        self.patch(changes.Changes, "make", make)
        self.assertEqual(self.change("remove"), 20)
        self.assertEqual(sizes, [20, 20, *[2] * 10])
        self.assertEqual(self.result(self.spool.waiting()), (0, 0))

    def test_noRoom(self) -> None:
        """Where there is none even for one, that is what is said."""
        self.spools.queued(self.spool, "a@x.example")

        def make(self: changes.Changes, command: str, keys: Any) -> int:
            raise NoRoom("full")

        self.patch(changes.Changes, "make", make)
        self.result(self.queue.change("remove", Selection(), None)).trap(NoRoom)

    def say(self, *lines: Any) -> list[Any]:
        """
        What the line answers.
        """
        operator = Operator(self.queue, self.spools.inThread, lambda: {"counters": {}})
        line: Any = ControlFactory(operator).buildProtocol(None)  # type: ignore[arg-type]
        transport = StringTransport()
        line.makeConnection(transport)
        for one in lines:
            line.dataReceived(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n")
        return [json.loads(answer) for answer in transport.value().splitlines()]

    def test_line(self) -> None:
        """Each line is answered by one; what is none is an error and nothing more."""
        work = self.spools.queued(self.spool, "a@x.example")
        answers = self.say(
            {"call": "numbers", "args": []},
            {"call": "read", "args": [work.envelope.id, 11]},
            {"call": "show", "args": ["nonsense"]},
            {"call": "__init__", "args": []},
            {"call": "look", "args": [{"unknown": 1}, 1, None]},
            b"}\n",
            {"call": "status", "args": []},
        )
        self.assertEqual(answers[0]["result"]["messages"], 1)
        self.assertEqual(base64.b64decode(answers[1]["result"]), b"\n\r\nhello\r\n")
        for answer in answers[2:6]:
            self.assertIn("error", answer)
        self.assertEqual(answers[6]["result"], {"counters": {}})
