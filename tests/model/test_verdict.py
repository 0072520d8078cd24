"""
What stages say.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import NO_MARKS, Marks, Route

ONE = Marks((("X-Spam", "yes"),), ("X-Old",), "[spam] ", False)
OTHER = Marks((("X-Virus", "no"),), ("X-Older",), "[list] ", True)


class MarksTests(SynchronousTestCase):
    """
    L{Marks}.
    """

    def test_plus(self) -> None:
        """What a later stage adds comes behind; its text stands first in the Subject."""
        both = ONE.plus(OTHER)
        self.assertEqual(both.headers, (("X-Spam", "yes"), ("X-Virus", "no")))
        self.assertEqual(both.removed, ("X-Old", "X-Older"))
        self.assertEqual(both.subjectPrefix, "[list] [spam] ")
        self.assertTrue(both.junk)

    def test_nothing(self) -> None:
        """No marks are nothing, on either side."""
        self.assertEqual(ONE.plus(NO_MARKS), ONE)
        self.assertEqual(NO_MARKS.plus(ONE), ONE)

    def test_json(self) -> None:
        """They are kept in the spool; none are nothing there."""
        for marks in (NO_MARKS, ONE, OTHER, ONE.plus(OTHER)):
            self.assertEqual(Marks.fromJSON(json.loads(json.dumps(marks.toJSON()))), marks)
        self.assertIsNone(NO_MARKS.toJSON())


class RouteTests(SynchronousTestCase):
    """
    L{Route}.
    """

    def test_own(self) -> None:
        """What is said for one stage counts before what is said for all."""
        route = Route("p", "d", (("refuse_score", 5.0), ("rspamd.refuse_score", 7.0)))
        self.assertEqual(route.own("rspamd", "refuse_score"), 7.0)
        self.assertEqual(route.own("spamassassin", "refuse_score"), 5.0)
        self.assertIsNone(route.own("rspamd", "mark_score"))
