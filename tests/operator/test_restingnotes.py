"""
Whom recipients let in, while no server runs.  The commands are in
L{tests.operator.test_refusals}, and with a real database in
L{tests.integration.test_cluster_refusals}.
"""

from __future__ import annotations

import json
import time
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.admission import OWNERS, Admission
from deferrals.operator import restingnotes
from deferrals.operator.restingnotes import DatabaseNotes

ANNA = "anna@example.net"


class _Notes:
    """
    Notes as they are in a database.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], str] = {}

    def placeOf(self, kind: str, group: str) -> str:
        return group

    def find(self, db: Any, places: list[str]) -> dict[str, list[tuple[str, str, int]]]:
        return {
            place: [(key, text, 1) for (group, key), text in self.rows.items() if group == place]
            for place in places
        }

    def put(
        self, db: Any, place: tuple[str, str, str], value: Any, seconds: float, was: Any
    ) -> int:
        assert seconds > 0
        self.rows[place[1:]] = json.dumps(value)
        return 1

    def forget(self, db: Any, kind: str, group: str, key: str) -> None:
        self.rows.pop((group, key), None)


class DatabaseNotesTests(SynchronousTestCase):
    """
    L{DatabaseNotes}.
    """

    def test_all(self) -> None:
        """What was said is found by its owner, and by who asks for all, until it is removed."""
        self.patch(restingnotes, "stored", stored := _Notes())
        notes = DatabaseNotes(mock.Mock(run=self.ask))
        one = Admission("dkim example.org", "friend@example.org", False, time.time() + 60)
        over = Admission("dkim example.com", "friend@example.org", False, time.time() - 1)
        for admission in (one, over):
            self.now(notes.add(ANNA, admission, 60))
        self.assertIn((OWNERS, ANNA), stored.rows)
        for owner in (ANNA, None):
            self.assertEqual(self.now(notes.found(owner)), {(ANNA, one.key): one})
        self.assertEqual(self.now(notes.found("bob@example.net")), {})
        self.assertEqual(self.now(notes.remove("bob@example.net")), 0)
        self.assertEqual(self.now(notes.remove(None)), 1)
        self.assertEqual(self.now(notes.found(None)), {})

    def now(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def ask(self, function: Any) -> Deferred[Any]:
        return maybeDeferred(function, None)
