"""
Lists in rows of tables.
"""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.model import rowlists
from deferrals.model.json import JSON
from deferrals.model.rowlists import listed
from deferrals.stages.envelope.aliases import membersIn
from deferrals.stages.envelope.submission import sendersIn
from deferrals.stages.envelope.usersettings import readRow

#: What a row may say, and which addresses these are.
SAID: tuple[tuple[JSON, list[str]], ...] = (
    ("a@x.org", ["a@x.org"]),
    ("a@x.org b@x.org", ["a@x.org", "b@x.org"]),
    ("a@x.org,b@x.org", ["a@x.org", "b@x.org"]),
    (" a@x.org ,, b@x.org\r\n\tc@x.org, ", ["a@x.org", "b@x.org", "c@x.org"]),
    ('"a b"@x.org "c, d"@x.org', ['"a b"@x.org', '"c, d"@x.org']),
    ("Anna <a@x.org>", ["a@x.org"]),
    ('"Anna, A. @ home" <a@x.org>, Bert B. <b@x.org>', ["a@x.org", "b@x.org"]),
    ("Anna <a@x.org> Bert<b@x.org> <c@x.org> d@x.org", [f"{one}@x.org" for one in "abcd"]),
    ("a@x.org (Anna, at home), b@x.org", ["a@x.org", "b@x.org"]),
    ("# all\na@x.org\n #b@x.org\nc@x.org", ["a@x.org", "c@x.org"]),
    (["a@x.org", "Bert <b@x.org>", ""], ["a@x.org", "b@x.org"]),
    (("a@x.org",), ["a@x.org"]),
    (' ["a@x.org", "\\"b c\\"@x.org"]', ["a@x.org", '"b c"@x.org']),
)

#: What is no list, or might be meant in two ways.
WRONG: tuple[JSON, ...] = (
    5,
    True,
    {"a@x.org": 1},
    ["a@x.org", 5],
    [["a@x.org"]],
    "[",
    "[" * 100_000,
    '["a@x.org", null]',
    '"a@x.org',
    "<a@x.org",
    "a@x.org>",
    "(a@x.org",
    "<>",
    "<a@x.org>@y.org",
    "a@x.org b@x.org <c@x.org>",
    "a@x.org Anna <b@x.org>",
)


class ListedTests(SynchronousTestCase):
    """
    L{listed}.
    """

    def test_said(self) -> None:
        """Commas, blanks and line ends part; quotes keep; a name is not the address."""
        for value, found in SAID:
            self.assertEqual(list(listed(value)), found, value)
        for empty in (None, "", " \n", ",", [], "# none"):
            self.assertEqual(list(listed(empty)), [], empty)

    def test_patterns(self) -> None:
        """Patterns part as addresses do, and are no name before an address."""
        self.assertEqual(list(listed("*@x.org *@*.y.org\n*")), ["*@x.org", "*@*.y.org", "*"])
        for said in ("* <a@x.org>", "{user} <a@x.org>"):
            self.assertRaises(ValueError, listed, said)

    def test_wrong(self) -> None:
        """What is no list, or might be meant in two ways, is an error in words."""
        for value in WRONG:
            error = self.assertRaises(ValueError, listed, value)
            self.assertIn("expected ", str(error))

    def test_most(self) -> None:
        """So many are in a list."""
        self.patch(rowlists, "MAX_LISTED", 2)
        self.assertEqual(len(listed("a b")), 2)
        for value in ("a b c", ["a", "b", "c"], "a,b,c"):
            self.assertRaises(ValueError, listed, value)

    @given(st.text(alphabet='ab@.,:\\"<>()[]*| \n#', max_size=30))
    def test_any(self, text: str) -> None:
        """Whatever stands there: texts that are something, or an error."""
        with contextlib.suppress(ValueError):
            self.assertTrue(all(listed(text)))


class OneLanguageTests(SynchronousTestCase):
    """
    All columns that are lists.
    """

    def test_same(self) -> None:
        """Members, senders of a login, and each list of a user say the same alike."""
        for value, found in SAID:
            self.assertEqual(list(membersIn(value)), found, value)
            self.assertEqual(list(sendersIn(value).others), found, value)
            row = readRow({"forward": value, "allow": value, "deny": value})
            self.assertEqual([str(one) for one in row.forward], found, value)
            self.assertEqual((len(row.allow), row.deny), (len(found), row.allow), value)

    def test_sameErrors(self) -> None:
        """And what is an error in one is one in each."""
        for value in WRONG:
            self.assertRaises(ValueError, membersIn, value)
            self.assertRaises(StageError, sendersIn, value)
            for column in ("forward", "allow", "deny"):
                self.assertRaises(StageError, readRow, {column: value})
