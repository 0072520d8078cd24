"""
What rspamd's JSON says: a table.
"""

from __future__ import annotations

import math
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.model.verdict import Marks
from deferrals.stages.content import rspamdreply
from deferrals.stages.content.addedfields import MAX_FIELDS, MAX_FIELDS_OCTETS
from deferrals.stages.content.rspamdreply import RspamdScan, readScan

#: More than a float can be.
HUGE = 10**400


def scan(**more: Any) -> RspamdScan:
    return readScan({"score": 5.0, "action": "no action", "required_score": 15.0, **more})


class ReadScanTests(SynchronousTestCase):
    """
    L{readScan}.
    """

    def test_scan(self) -> None:
        """What every answer has."""
        self.assertEqual(scan(), RspamdScan(5.0, 15.0, "no action", {}))
        self.assertEqual(scan(score=3, action="Add Header").score, 3.0)
        self.assertEqual(scan(action="Add Header").action, "add header")

    def test_none(self) -> None:
        """What is no scan is an error that says so."""
        for answer, text in (
            ([], "no object"),
            (None, "no object"),
            ({"error": "Internal"}, "rspamd says: Internal"),
            ({"error": "x" * 5000}, "rspamd says: x{200}$"),
            ({}, "no score and action"),
            ({"score": "5", "action": "reject"}, "no score and action"),
            ({"score": True, "action": "reject"}, "no score and action"),
            ({"score": math.nan, "action": "reject"}, "no score and action"),
            ({"score": math.inf, "action": "reject"}, "no score and action"),
            ({"score": HUGE, "action": "reject"}, "no score and action"),
            ({"score": 5.0}, "no score and action"),
        ):
            with self.assertRaisesRegex(StageError, text):
                readScan(answer)

    def test_required(self) -> None:
        """From where rspamd rejects: as it says, or by its thresholds, or never."""
        for more, required in (
            ({}, 15.0),
            ({"required_score": None, "thresholds": {"reject": 12}}, 12.0),
            ({"thresholds": {"reject": 12}}, 15.0),
            ({"required_score": None}, math.inf),
            ({"required_score": "15", "thresholds": [12]}, math.inf),
            ({"required_score": HUGE}, math.inf),
        ):
            self.assertEqual(scan(**more).required, required)

    def test_symbols(self) -> None:
        """Each symbol with its score; one without a number counts nothing."""
        found = scan(
            symbols={
                "A": {"score": 1.5},
                "B": {"score": "x"},
                "C": 7,
                "D": {},
                "E": {"score": HUGE},
            }
        )
        self.assertEqual(found.symbols, {"A": 1.5, "B": 0.0, "C": 0.0, "D": 0.0, "E": 0.0})
        self.assertEqual(scan(symbols=[1]).symbols, {})

    def test_texts(self) -> None:
        """What the sender is to read, and the Subject that a copy is to have."""
        self.assertEqual(scan(messages={"smtp_message": "no"}).text, "no")
        self.assertEqual(scan(subject="***").subject, Marks((("Subject", "***"),), ("Subject",)))
        for more in ({"messages": []}, {"messages": {"smtp_message": 7}}, {"subject": 7}):
            found = scan(**more)
            self.assertEqual((found.text, found.subject), ("", Marks()))

    def test_marks(self) -> None:
        """Fields to be added and removed: text, a table with a value, or a list of these."""
        milter = {
            "add_headers": {
                "A": "1",
                "B": {"value": "2", "order": 0},
                "C": ["3", {"value": "4"}],
                "D": 7,
                "E": {"value": 8},
            },
            "remove_headers": {"F": 0, "G": 1},
        }
        added = (("A", "1"), ("B", "2"), ("C", "3"), ("C", "4"))
        self.assertEqual(scan(milter=milter).marks, Marks(added, ("F", "G")))
        for strange in ([], {"add_headers": [], "remove_headers": ["F"]}, {}):
            self.assertEqual(scan(milter=strange).marks, Marks())

    def test_milter(self) -> None:
        """What the milter's part makes of the action."""
        for milter, action, wanted in (
            ({"reject": "discard"}, "reject", "discard"),
            ({"reject": "quarantine"}, "reject", "quarantine"),
            ({"reject": "quarantine"}, "no action", "no action"),
            ({"reject": 7}, "reject", "reject"),
            ({"reject": "other"}, "reject", "reject"),
            ({"no_action": True}, "reject", "no action"),
            ({"no_action": False}, "reject", "reject"),
        ):
            self.assertEqual(scan(action=action, milter=milter).action, wanted)
        found = scan(action="reject", milter={"no_action": True})
        self.assertEqual(found.marks, Marks((("X-Rspamd-Action", "reject"),)))

    def test_unknown(self) -> None:
        """Each part that is not carried out as it stands there is named."""
        for more, wanted in (
            ({"message-id": "x", "time_real": 1.0, "urls": [], "profile": {}}, ()),
            ({"novelty": 1}, ("novelty",)),
            (
                {"milter": {"change_from": "x", "del_rcpt": []}},
                ("milter.change_from", "milter.del_rcpt"),
            ),
            (
                {"milter": {"add_headers": {"X Y": "1", "X-Z": 7, "X-A": "1"}}},
                ("milter.add_headers.X Y", "milter.add_headers.X-Z"),
            ),
            (
                {"milter": {"remove_headers": {"A": 0, "B": 1}}},
                ("milter.remove_headers.B of one place (all are removed)",),
            ),
            ({"milter": {"remove_headers": {"X Y": 0}}}, ("milter.remove_headers.X Y",)),
        ):
            self.assertEqual(scan(**more).unknown, wanted, more)
        for action, known in (("reject", True), ("discard", False), ("our own", False)):
            self.assertEqual(scan(action=action).instead == "", known)

    def test_signature(self) -> None:
        """A signature can be folded, however long its key is."""
        said = f"v=1; bh={'A' * 43}=; b={'B' * 2000}"
        ((_, value),) = scan(**{"dkim-signature": said}).marks.headers
        self.assertEqual(value.replace(" ", ""), said.replace(" ", ""))
        self.assertIn(f"bh={'A' * 43}=;", value)
        self.assertTrue(all(len(word) < 100 for word in value.split(" ")))

    def test_tooMany(self) -> None:
        """No more fields than so many are taken over."""
        many = {f"X-{number}": "x" for number in range(MAX_FIELDS + 5)}
        marks = scan(milter={"add_headers": many, "remove_headers": many}).marks
        self.assertEqual((len(marks.headers), len(marks.removed)), (MAX_FIELDS, MAX_FIELDS))

    def test_tooLong(self) -> None:
        """Nor anything of more octets, whatever it is: it is kept for each recipient."""
        long = "x" * (MAX_FIELDS_OCTETS + 1)
        found = scan(
            subject=long,
            milter={
                "add_headers": {"A": long},
                "remove_headers": {long: 0, "no name": 0, "": 0, "X": 0},
                "spam_header": long,
            },
        )
        self.assertEqual(found.marks, Marks((), ("X",)))
        self.assertEqual((found.subject, found.spam), (Marks(), Marks()))


class RspamdScanTests(SynchronousTestCase):
    """
    L{RspamdScan}.
    """

    def test_forced(self) -> None:
        """Whether a rejection has another reason than the score."""
        for action, score, skipped, forced in (
            ("reject", 20.0, False, False),
            ("reject", 15.0, False, False),
            ("reject", 14.9, False, True),
            ("reject", 20.0, True, True),
            ("no action", 5.0, True, False),
        ):
            found = scan(action=action, score=score, is_skipped=skipped)
            self.assertEqual(found.forced, forced)

    def test_scoreWith(self) -> None:
        """Other weights count instead of those of the symbols that were found."""
        found = scan(symbols={"A": {"score": 3.0}, "B": {"score": 2.0}})
        for weights, score in (({}, 5.0), ({"A": 0.0}, 2.0), ({"B": 12.0, "C": 50.0}, 15.0)):
            self.assertEqual(found.scoreWith(weights), score)

    @given(st.text(alphabet="a \t\r\n"))
    def test_unfolded(self, text: str) -> None:
        """A line end goes with all blanks around it, where there are some behind it."""
        expected = re.sub(r"[ \t]*\r?\n[ \t]+", " ", text)
        self.assertEqual(rspamdreply._texts(text), [expected])
