"""
What stages say.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    NO_DETAILS,
    NO_MARKS,
    Accept,
    Defer,
    Delivered,
    Details,
    Failed,
    HeaderEdit,
    Marks,
    Refuse,
    Retry,
    Route,
)

ONE = Marks((("X-Spam", "yes"),), ("X-Old",), "[spam] ", False)
EDIT = HeaderEdit("insert", "X-Seen", "a\n\tb", 0)
OTHER = Marks((("X-Virus", "no"),), ("X-Older",), "[list] ", True, (EDIT,))


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
        for apart in (["a"], {"a": NO}, {"a": Accept()}):
            self.assertRaises(TypeError, Accept, apart=apart)
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
        self.assertEqual(both.edits, (EDIT,))

    def test_edits(self) -> None:
        """They are checked where they are made; rows of versions without them are read."""
        for kind, name, value, index in (
            ("replace", "X", "v", 1),
            ("insert", "X: y", "v", 0),
            ("insert", "X", "v", -1),
            ("change", "X", "v", 0),
            ("remove", "X", "", 0),
        ):
            self.assertRaises(ValueError, HeaderEdit, kind, name, value, index)
        self.assertRaises(TypeError, HeaderEdit, "insert", "X", b"v", 0)
        self.assertRaises(TypeError, Marks, edits=["X"])
        self.assertRaises(TypeError, Marks, edits=("X",))
        old = {"headers": [["X", "1"]], "removed": [], "subjectPrefix": "", "junk": False}
        self.assertEqual(Marks.fromJSON(old), Marks((("X", "1"),)))
        self.assertEqual(Marks((("X", "1"),)).toJSON(), old)

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


class DetailsTests(SynchronousTestCase):
    """
    L{Details}.
    """

    def test_quiet(self) -> None:
        """What is made into text by mistake says nothing of the inside."""
        details = Details.ofError(OSError(13, "Permission denied", "/srv/mail/secret"))
        for text in (f"cannot write: {details}", str(details), f"{details!s:>40}"):
            self.assertNotIn("secret", text)
        self.assertIn("/srv/mail/secret", details.line())
        self.assertIn("PermissionError", details.cause)

    def test_line(self) -> None:
        """One line for the log: the last reply, where, how, and why."""
        final = Reply(250, "2.0.0", "queued as 4711")
        for details, line in (
            (Details(), ""),
            (Details(final=final), "final: 250 2.0.0 queued as 4711"),
            (Details(address="/run/lmtp"), "at /run/lmtp"),
            (Details("no\nway", None, "192.0.2.1", 25), "at [192.0.2.1]:25; cause: no way"),
            (
                Details(address="2001:db8::1", port=25, tls="TLSv1.3 X", verified=True),
                "at [2001:db8::1]:25; TLSv1.3 X verified",
            ),
            (Details(tls="TLSv1.3 X"), "TLSv1.3 X not verified"),
        ):
            self.assertEqual(details.line(), line)

    def test_bounded(self) -> None:
        """A cause is one line that cannot act, and not a long one."""
        self.assertLessEqual(len(Details("x" * 10**6).cause), 500)
        self.assertTrue(Details("a\r\n\x1b[0m\ud800b").cause.isprintable())

    def test_outcomes(self) -> None:
        """They are no part of what an outcome is, and must be Details."""
        details = Details("why")
        for one in (
            Delivered(details=details),
            Failed(LATER, details=details),
            Retry(LATER, details=details),
        ):
            self.assertEqual(one, attrs.evolve(one, details=NO_DETAILS))
            with self.assertRaisesRegex(TypeError, "details: expected Details"):
                attrs.evolve(one, details="a path")
