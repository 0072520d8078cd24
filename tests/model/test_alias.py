"""
What a sender is told of an alias: tables, and what holds for any members.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.alias import Alias, Member, answer, isDelaying, memberOf
from deferrals.model.envelope import Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    ACCEPT,
    Accept,
    ContentVerdict,
    Defer,
    EnvelopeVerdict,
    Marks,
    Refuse,
    Route,
)
from deferrals.testing import makeRecipient
from tests.requirements import requirement

NO = Refuse(Reply(550, "5.7.1", "<anna@example.net> does not want this"))
GONE = Refuse(Reply(551, "5.1.6", "<anna@example.net> is at <anna@example.org>"))
NOT_NOW = Refuse(Reply(450, "4.2.0", "anna@example.net is being moved"))
CLOSING = Refuse(Reply(421, "4.3.2", "going down"))

#: By letter: what a member says in the envelope, or after the data.
ENVELOPE: dict[str, EnvelopeVerdict] = {
    "a": Accept(route=Route("open", "box")),
    "d": Defer(Route("strict", "box")),
    "r": NO,
    "t": NOT_NOW,
}
CONTENT: dict[str, ContentVerdict] = {
    "a": Accept(Marks(junk=True)),
    "r": NO,
    "5": GONE,
    "t": NOT_NOW,
    "4": CLOSING,
}


def alias(letters: str) -> Alias:
    members = [
        Member(makeRecipient(f"m{number}@example.net"), ENVELOPE[letter], letter)
        for number, letter in enumerate(letters)
    ]
    return Alias(members)


def code(verdict: EnvelopeVerdict) -> int | str:
    return verdict.reply.code if isinstance(verdict, Refuse) else type(verdict).__name__


class EnvelopeTests(SynchronousTestCase):
    """
    At RCPT TO.
    """

    @requirement("D-19")
    def test_table(self) -> None:
        """One that accepts is enough; then one that cannot know; then 4xx before 5xx."""
        for letters, expected in {
            "": 550,
            "a": "Accept",
            "rta": "Accept",
            "da": "Accept",
            "d": "Defer",
            "rtd": "Defer",
            "r": 550,
            "rt": 450,
            "tr": 450,
            "rr": 550,
        }.items():
            self.assertEqual(code(alias(letters).verdict), expected, letters)

    def test_open(self) -> None:
        """Only where all accept, nothing is left to be decided."""
        for letters, isOpen in {
            "a": False,
            "aa": False,
            "ad": True,
            "ar": True,
            "at": True,
        }.items():
            self.assertEqual(alias(letters).isOpen, isOpen, letters)

    def test_cohort(self) -> None:
        """An alias of one cohort is of that cohort; others are told apart by all of theirs."""
        self.assertEqual(alias("d").cohort, "d")
        self.assertEqual(alias("dd").cohort, "d")
        self.assertEqual(alias("aa").cohort, ())
        self.assertEqual(alias("da").cohort, alias("add").cohort)
        self.assertEqual(len({alias(one).cohort for one in ("da", "dr", "dt", "d", "a")}), 5)

    def test_unnamed(self) -> None:
        """What a member has said is in the log alone."""
        refused = alias("r").verdict
        assert isinstance(refused, Refuse)
        self.assertNotIn("anna", refused.reply.text)
        self.assertIn("anna", refused.why)


class ContentTests(SynchronousTestCase):
    """
    After the data.
    """

    @requirement("D-19")
    def test_table(self) -> None:
        """Members, how often it was delayed, and what is said."""
        for letters, delays, expected in (
            ("a", 0, "Accept"),
            ("ar", 0, "Accept"),
            ("at", 0, 450),
            ("at", 2, 450),
            ("at", 3, "Accept"),
            ("art", 3, "Accept"),
            ("rt", 3, 450),
            ("t", 9, 450),
            ("r", 0, 550),
            ("5", 0, 550),
            ("4", 0, 451),
            ("r4", 0, 451),
        ):
            said = answer([CONTENT[one] for one in letters], 3, delays)
            self.assertEqual(code(said), expected, (letters, delays))

    def test_promised(self) -> None:
        """A 250 to a client of DEFERRALS stands."""
        for letters in ("at", "ar", "a", "rt"):
            said = answer([CONTENT[one] for one in letters], 3, 0, isPromised=True)
            self.assertEqual(said, ACCEPT, letters)

    @given(st.text("ar5t4", min_size=1, max_size=6), st.integers(0, 4), st.integers(0, 4))
    def test_any(self, letters: str, later: int, delays: int) -> None:
        """
        Accepted only where one accepts; for now only where one refuses for now; never a
        word of a member; the order of what members say does not matter, but for the code.
        """
        members = [CONTENT[one] for one in letters]
        said = answer(members, later, delays)
        isTaken, isLater = "a" in letters, bool({"t", "4"} & set(letters))
        self.assertEqual(isDelaying(members), isTaken and isLater)
        self.assertEqual(isinstance(said, Accept), isTaken and not (isLater and delays < later))
        other = answer(members[::-1], later, delays)
        self.assertEqual(type(said), type(other))
        if isinstance(said, Refuse) and isinstance(other, Refuse):
            self.assertEqual(said.reply.isTemporary, isLater)
            self.assertEqual(other.reply.isTemporary, isLater)
            self.assertNotIn("anna", said.reply.text)
            self.assertEqual(said.reply, said.reply.forRecipient())
            self.assertNotIn(said.reply.code, (421, 551))


class MemberTests(SynchronousTestCase):
    """
    RFC 3461 §5.2.7: one identity towards who tells the sender.
    """

    def test_parameters(self) -> None:
        """The original recipient is the alias'; success is told of the alias alone."""
        address, named = Mailbox.parse("anna@example.org"), Mailbox.parse("all@example.net")
        for notify, expected in (
            (None, None),
            ({"NEVER"}, {"NEVER"}),
            ({"SUCCESS"}, {"NEVER"}),
            ({"SUCCESS", "FAILURE"}, {"FAILURE"}),
        ):
            asked = None if notify is None else frozenset(notify)
            member = memberOf(Recipient(named, asked), address, (named,))
            self.assertEqual(member.notify, expected)
            self.assertEqual(member.orcpt, "rfc822;all@example.net")
            self.assertEqual((member.address, member.alias), (address, named))
        asked = Recipient(named, None, "rfc822;first@example.com")
        self.assertEqual(memberOf(asked, address, (named,)).orcpt, "rfc822;first@example.com")

    def test_policy(self) -> None:
        """A member's policy is its route's, or that of the rule that refuses it."""
        self.assertEqual(
            Member(makeRecipient("a@b.test", "strict"), ENVELOPE["d"]).policy, "strict"
        )
        refused = Refuse(NO.reply, policy="open")
        self.assertEqual(Member(Recipient(Mailbox.parse("a@b.test")), refused).policy, "open")
        self.assertEqual(Member(Recipient(Mailbox.parse("a@b.test")), NO).policy, "")
