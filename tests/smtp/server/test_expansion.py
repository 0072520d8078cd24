"""
From an alias to its members: nested, with loops, up to limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import Mailbox
from deferrals.model.alias import Alias
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import Accept, Expand, Refuse, Route
from deferrals.smtp.server.expansion import Expansion
from deferrals.stages.envelope.chain import askInTurn
from deferrals.testing import makeEnvelope


def mailbox(name: str) -> Mailbox:
    return Mailbox.parse(f"{name}@example.net")


@implementer(IEnvelopeStage)
class Book:
    """
    Aliases by name; all others are people.

    @ivar asked: who was asked about, in order.
    """

    def __init__(self, aliases: Mapping[str, list[str]], **more: Any) -> None:
        self.aliases = aliases
        self.more = more
        self.asked: list[str] = []
        self.broken: dict[str, Any] = {}

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Any:
        name = recipient.address.local
        self.asked.append(name)
        if name in self.broken:
            return self.broken[name]
        accept = Accept(route=Route("open", "box"))
        return Deferred.fromCoroutine(askInTurn([_Names(self)], envelope, recipient, accept))


@implementer(IEnvelopeStage)
class _Names:
    def __init__(self, book: Book) -> None:
        self._book = book

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Expand | None:
        found = self._book.aliases.get(recipient.address.local)
        return None if found is None else Expand(tuple(map(mailbox, found)), **self._book.more)


class ExpansionTests(SynchronousTestCase):
    def expand(self, book: Book, name: str) -> Alias | Refuse:
        named = Recipient(mailbox(name))
        first = Expand(tuple(map(mailbox, book.aliases[name])), **book.more)
        expansion = Expansion(book, makeEnvelope("a@b.example"), named, first)
        return self.successResultOf(Deferred.fromCoroutine(expansion.find()))

    def names(self, book: Book, name: str) -> list[str]:
        found = self.expand(book, name)
        assert isinstance(found, Alias)
        return [one.recipient.address.local for one in found.members]

    def test_nested(self) -> None:
        """Aliases in aliases; each person once, with the way to it."""
        book = Book({"all": ["boys", "girls", "bert"], "boys": ["bert", "carl"], "girls": ["anna"]})
        self.assertEqual(self.names(book, "all"), ["bert", "carl", "anna"])
        found = self.expand(book, "all")
        assert isinstance(found, Alias)
        ways = {str(one.recipient.address.local): one.recipient for one in found.members}
        self.assertEqual([one.local for one in ways["anna"].aliases], ["all", "girls"])
        self.assertEqual(str(ways["anna"].alias), "all@example.net")

    def test_loop(self) -> None:
        """What leads back falls out; a loop without anyone in it has no members."""
        book = Book({"a": ["b", "c"], "b": ["a", "x"], "c": ["b", "a"], "e": ["f"], "f": ["e"]})
        self.assertEqual(self.names(book, "a"), ["x"])
        self.assertEqual(self.names(book, "e"), [])

    def test_own(self) -> None:
        """Who is a member of its own alias keeps a copy, wherever that stands."""
        book = Book({"anna": ["anna", "bert"], "all": ["anna", "bert"]})
        self.assertEqual(self.names(book, "anna"), ["anna", "bert"])
        self.assertEqual(sorted(self.names(book, "all")), ["anna", "bert"])
        self.assertEqual(book.asked.count("anna"), 3)  # for "all": as an alias, as its own member

    def test_nesting(self) -> None:
        """Too many in each other: refused for now, and said in the log."""
        book = Book({str(n): [str(n + 1)] for n in range(10)})
        self.assertEqual(self.names(book, "0"), ["10"])
        book = Book({str(n): [str(n + 1)] for n in range(11)})
        refused = self.expand(book, "0")
        assert isinstance(refused, Refuse)
        self.assertEqual(
            (refused.reply.code, refused.why), (451, "alias: more than 10 aliases in each other")
        )

    def test_members(self) -> None:
        """Too many members: likewise, before they are asked about."""
        book = Book({"all": [f"m{n}" for n in range(21)]}, most=20)
        refused = self.expand(book, "all")
        assert isinstance(refused, Refuse)
        self.assertEqual(refused.reply.code, 451)
        self.assertEqual(book.asked, [])
        self.assertEqual(len(self.names(Book(book.aliases, most=21), "all")), 21)

    def test_broken(self) -> None:
        """A member that cannot be judged refuses for now; the others are not hurt."""
        book = Book({"all": ["anna", "bert", "carl"]})
        book.broken = {"bert": None, "carl": "nonsense"}
        found = self.expand(book, "all")
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        assert isinstance(found, Alias)
        codes = [one.verdict.reply.code for one in found.members if isinstance(one.verdict, Refuse)]
        self.assertEqual(codes, [451, 451])

    @given(
        st.dictionaries(
            st.sampled_from("abcdef"),
            st.lists(st.sampled_from("abcdefxyz"), max_size=5),
            min_size=1,
        )
    )
    def test_any(self, aliases: dict[str, list[str]]) -> None:
        """
        Whatever the aliases: it ends; the members are the people that can be reached, and
        those aliases that are members of themselves, each once; no address is asked about twice
        in one way.
        """
        book = Book(aliases)
        start = min(aliases)
        reached, waiting = set(), [start]
        people = set()
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            for member in aliases[name]:
                if member == name or member not in aliases:
                    people.add(member)
                else:
                    waiting.append(member)
        found = self.names(book, start)
        self.assertEqual(sorted(found), sorted(people))
        self.assertLessEqual(max(map(book.asked.count, book.asked), default=0), 2)
