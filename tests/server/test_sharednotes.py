"""
Tests for L{deferrals.server.sharednotes}; those with a real database are in
L{tests.integration.test_cluster_notes}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.deferreds import asDeferred
from deferrals.errors import OutcomeUnknown, StoreAway
from deferrals.interfaces import INotes
from deferrals.server.notes import Notes
from deferrals.server.sharednotes import OWN, TRIM_PUTS, TRIM_SECONDS, SharedNotes
from deferrals.spool.postgresql.notes import find, placeOf, put, trim


class _Connection:
    """
    Notes what it is asked for, and answers when it is let.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: list[Deferred[Any]] = []

    def run(self, *asked: Any) -> Deferred[Any]:
        self.asked.append(asked)
        self.answers.append(Deferred())
        return self.answers[-1]

    alone = run


class SharedNotesTests(SynchronousTestCase):
    """
    L{SharedNotes}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.connection = _Connection()
        connection: Any = self.connection
        self.notes = SharedNotes(Notes(self.clock), connection, self.clock, {"k": 10})

    def test_interface(self) -> None:
        """They are what stages are promised."""
        self.assertTrue(verifyObject(INotes, self.notes))

    def test_own(self) -> None:
        """What is a machine's own is asked for in its memory."""
        for kind in OWN:
            self.successResultOf(self.notes.put(kind, "g", "key", 1, 60))
            ((key, value, _),) = self.notes.find(kind, "g")
            self.assertEqual((key, value), ("key", 1))
            self.successResultOf(self.notes.forget(kind, "g", "key"))
        self.assertEqual(self.connection.asked, [])

    def test_together(self) -> None:
        """Look-ups that come in one turn are one statement; each reader has its own values."""
        both = [asDeferred(self.notes.find, "k", group) for group in ("a", "b", "a")]
        self.assertEqual(self.connection.asked, [])
        self.clock.advance(0)
        places = [placeOf("k", "a"), placeOf("k", "b")]
        self.assertEqual(self.connection.asked, [(find, places)])
        late = asDeferred(self.notes.find, "k", "c")
        self.connection.answers[0].callback({places[0]: [("x", "[1]", 5)], places[1]: []})
        found = [self.successResultOf(d) for d in both]
        self.assertEqual(found, [[("x", [1], 5)], [], [("x", [1], 5)]])
        self.assertIsNot(found[0][0][1], found[2][0][1])
        self.assertNoResult(late)
        self.assertEqual(self.connection.asked[1:], [(find, [placeOf("k", "c")])])
        self.connection.answers[1].callback({placeOf("k", "c"): []})
        self.assertEqual(self.successResultOf(late), [])
        asDeferred(self.notes.find, "k", "d")
        self.clock.advance(0)
        self.assertEqual(len(self.connection.asked), 3)

    def test_away(self) -> None:
        """Without the database what was put here is found, until it expires or is forgotten."""
        d = self.notes.put("k", "a", "x", {"v": 1}, 60)
        self.connection.answers[0].callback(7)
        self.assertEqual(self.successResultOf(d), 7)
        for error in (StoreAway("away"), OutcomeUnknown("lost")):
            found = self.lookUp("a", error)
            self.assertEqual(self.successResultOf(found), [("x", {"v": 1}, 7)])
            self.failureResultOf(self.lookUp("b", error), StoreAway)
        self.clock.advance(60)
        self.failureResultOf(self.lookUp("a", StoreAway("away")), StoreAway)
        self.failureResultOf(self.lookUp("a", ValueError("on purpose")), ValueError)

    def lookUp(self, group: str, error: Exception) -> Deferred[Any]:
        """
        One that fails in the database.
        """
        d = asDeferred(self.notes.find, "k", group)
        self.clock.advance(0)
        self.connection.answers[-1].errback(error)
        return d

    def test_forgotten(self) -> None:
        """What was forgotten here is not found here."""
        put = self.notes.put("k", "a", "x", 1, 60)
        self.connection.answers[0].callback(7)
        self.successResultOf(put)
        forgotten = self.notes.forget("k", "a", "x")
        self.connection.answers[1].callback(None)
        self.successResultOf(forgotten)
        self.failureResultOf(self.lookUp("a", StoreAway("away")), StoreAway)

    def test_notPut(self) -> None:
        """What could not be put is not known here either."""
        self.connection.alone = lambda *asked: fail(StoreAway("away"))  # type: ignore[method-assign]
        self.failureResultOf(self.notes.put("k", "a", "x", 1, 60), StoreAway)
        self.failureResultOf(self.notes.put("k", "a", "x", 1, 60), StoreAway)
        d = asDeferred(self.notes.find, "k", "a")
        self.clock.advance(0)
        self.failureResultOf(d, StoreAway)

    def test_trimmed(self) -> None:
        """What is too much goes now and then, and after many puts, until it is stopped."""
        self.notes.start()
        self.clock.advance(TRIM_SECONDS)
        self.assertEqual([one[0] for one in self.connection.asked], [trim])
        self.connection.answers[0].errback(ValueError("on purpose"))
        for _ in range(TRIM_PUTS):
            self.notes.put("k", "a", "x", 1, 60)
        asked = [one[0] for one in self.connection.asked]
        self.assertEqual((asked.count(put), asked.count(trim)), (TRIM_PUTS, 2))
        self.notes.stop()
        self.notes.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_text(self) -> None:
        """What is noted is kept as it was, whatever becomes of the value."""
        value: Any = {"a": [1]}
        d = self.notes.put("k", "a", "x", value, 60)
        value.clear()
        self.connection.answers[0].callback(1)
        self.successResultOf(d)
        found = self.lookUp("a", StoreAway("away"))
        self.assertEqual(json.dumps(self.successResultOf(found)[0][1]), '{"a": [1]}')
