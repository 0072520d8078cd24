"""
What stages say.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    NO_MARKS,
    Accept,
    Defer,
    Delivered,
    Failed,
    Marks,
    Refuse,
    Retry,
    Route,
)

ONE = Marks((("X-Spam", "yes"),), ("X-Old",), "[spam] ", False)
OTHER = Marks((("X-Virus", "no"),), ("X-Older",), "[list] ", True)


NO = Reply(550, "5.7.1", "no")
LATER = Reply(451, "4.3.0", "later")
OK = Reply(250, "2.0.0", "ok")


class ValueTests(SynchronousTestCase):
    """
    What makes no sense raises where it is made.
    """

    def test_type(self) -> None:
        """Attributes of another type."""
        nonsense: tuple[tuple[Any, ...], ...] = (
            (Refuse, "550 no"),
            (Refuse, None),
            (Refuse, Refuse(NO)),
            (Refuse, 550),
            (Failed, "550 no"),
            (Failed, None),
            (Failed, NO, None),
            (Retry, "451 later"),
            (Retry, LATER, b"mx"),
            (Retry, LATER, "mx", "60"),
            (Delivered, "250 ok"),
            (Delivered, OK, None),
            (Accept, Route("p", "d")),
            (Accept, None),
            (Accept, NO_MARKS, "strict"),
            (Defer, "strict"),
            (Defer, ("strict", "box")),
            (Route, None, "box"),
            (Route, "strict", None),
            (Route, "strict", "box", {"refuse_score": 5.0}),
            (Marks, [("X-Spam", "yes")]),
            (Marks, (("X-Spam", 5),)),
            (Marks, ("X-Spam: yes",)),
            (Marks, (), "X-Old"),
            (Marks, (), (1,)),
            (Marks, (), (), None),
            (Marks, (), (), "", 1),
        )
        for make, *args in nonsense:
            self.assertRaises(TypeError, make, *args)

    def test_value(self) -> None:
        """Replies that say the contrary, and other values that cannot be."""
        nonsense: tuple[tuple[Any, ...], ...] = (
            (Refuse, OK),
            (Failed, OK),
            (Retry, Reply(352, None, "deferred")),
            (Retry, LATER, "mx", -1.0),
            (Retry, LATER, "mx", float("nan")),
            (Retry, LATER, "mx", float("inf")),
            (Delivered, NO),
            (Delivered, OK, "mx", "forwarded"),
        )
        for make, *args in nonsense:
            self.assertRaises(ValueError, make, *args)

    def test_sense(self) -> None:
        """A temporary refusal may end a delivery, too: its sender has been told."""
        self.assertEqual(Failed(LATER, "mx", True).reply, LATER)
        self.assertEqual(Retry(NO, after=60).after, 60)
        self.assertEqual(Delivered(OK, "mx", "relayed").host, "mx")


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
