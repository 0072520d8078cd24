"""
What went wrong in the field, case by case, with what is remembered in memory and
in a spool on disk that is opened anew every few transactions.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixed import Rules
from deferrals.model.mixedrecord import LIFETIME_SECONDS, Record
from deferrals.server import notes as product
from deferrals.spool.sqlite.spool import SqliteSpool
from tests.mixed.procedures import Notes, Procedure
from tests.mixed.senders import Exim, OneThing, Queue, Repeats, Sender, Silent, Stranger, bring
from tests.mixed.world import Client, Message, Server
from tests.reactors import PumpedReactor

RETRY, SPLIT = Rules(), Rules(split=True)
FRIEND = Client("192.0.2.1")


class InMemoryTests(SynchronousTestCase):
    """
    M1 to M12.
    """

    def notes(self) -> Notes:
        """Where it is remembered."""
        return Notes()

    def server(self, rules: Rules, **says: str) -> Server:
        """
        @param says: what each recipient says, each time anew from the front of
            the text; the last letter stays.
        """

        def judge(key: str, message: Message, now: float) -> str:
            said = says[key]
            if len(said) > 1:
                says[key] = said[1:]
            return said[0]

        rng = random.Random(1)
        server = Server(Procedure(rules, self.notes()), judge, lot=lambda: rng.randrange(1000))
        server.exact = all(len(said) == 1 for said in says.values())
        return server

    def brought(
        self, rules: Rules, sender: Sender, attempts: int, server: Server | None = None, **says: str
    ) -> dict[str, str]:
        """
        @return: what the sender was told.
        """
        bring(server or self.server(rules, **says), [sender], attempts)
        return sender.told

    def test_M1(self) -> None:
        """One that refuses for now comes first, each time: the others have it all the same."""
        for rules, attempts in ((RETRY, 2), (SPLIT, 5)):
            sender = Queue(["later", "lover", "third"], pipelined=False)
            told = self.brought(rules, sender, attempts, later="T", lover="A", third="A")
            self.assertEqual({"lover": "2", "third": "2"}, told)

    def test_M2(self) -> None:
        """Who refuses for good does not wait behind one that refuses for now."""
        sender = Queue(["a", "fighter", "later"])
        told = self.brought(RETRY, sender, 3, a="A", fighter="R", later="T")
        self.assertEqual({"a": "2", "fighter": "5"}, told)

    def test_M3(self) -> None:
        """Exim: who accepts has it with the second run of the queue."""
        for bdat in (True, False):
            sender = Exim(["fighter", "later", "postmaster"], bdat=bdat, received=True)
            told = self.brought(RETRY, sender, 2, fighter="R", later="T", postmaster="A")
            self.assertEqual({"postmaster": "2"}, told)

    def test_M4(self) -> None:
        """A stranger who forges the name, again and again, holds up nothing."""
        for rules in (RETRY, SPLIT):
            server = self.server(rules, bob="A", postmaster="A")
            judge = server.judge
            server.judge = lambda key, message, now, judge=judge: (  # type: ignore[misc]
                "R"
                if message.digest.startswith("evil") and key == "bob"
                else judge(key, message, now)
            )
            stranger = Stranger(Client("198.51.100.7"), random.Random(3), ["bob", "postmaster"])
            for number in range(30):
                sender = Queue(["bob"], Message(f"<{number}@x>", "hello"), clients=(FRIEND,))
                stranger.come(server)
                bring(server, [sender], 1)
                self.assertEqual({"bob": "2"}, sender.told)

    def test_M5(self) -> None:
        """Four colleagues with four settings, who all accept: one attempt."""
        sender = Queue(list("abcd"))
        self.assertEqual(
            dict.fromkeys("abcd", "2"), self.brought(RETRY, sender, 1, **dict.fromkeys("abcd", "A"))
        )

    def test_M6(self) -> None:
        """A client that gives up at the first 452: ordinary mail is taken at once."""
        for how in ("rset", "quit", "close"):
            for rules, attempts in ((RETRY, 1), (SPLIT, 4)):
                sender = OneThing(list("abc"), how=how)
                told = self.brought(rules, sender, attempts, **dict.fromkeys("abc", "A"))
                self.assertEqual(dict.fromkeys("abc", "2"), told)

    def test_M7(self) -> None:
        """A program that brings all again: one copy each, and an end."""
        for rules in (RETRY, SPLIT):
            server = self.server(rules, a="A", b="A", fighter="R")
            sender = Repeats(["a", "b", "fighter"])
            told = self.brought(rules, sender, 10, server)
            self.assertEqual("5", told["fighter"])
            self.assertEqual([1, 1], [server.copies[key, sender.message] for key in "ab"])

    def test_M8(self) -> None:
        """A client that gives up as a whole, whoever is named first: an end within five."""
        for order in (["open", "fighter"], ["fighter", "open"]):
            for how in ("rset", "quit", "close"):
                sender = OneThing(order, how=how, pipelined=False)
                told = self.brought(RETRY, sender, 5, open="A", fighter="R")
                self.assertEqual({"open": "5", "fighter": "5"}, told)

    def test_M9(self) -> None:
        """Unrelated senders with one body and no Message-ID: each is answered for itself."""
        for rules in (RETRY, SPLIT):
            server = self.server(rules, a="A", fighter="R")
            for number in range(7):
                client = Client(f"203.0.{number}.1")
                message = Message("", "disk is full")
                sender = Queue(["a", "fighter"], message, clients=(client,))
                self.assertEqual({"a": "2", "fighter": "5"}, self.brought(rules, sender, 4, server))
            self.assertEqual(7, server.copies["a", message])

    def test_M10(self) -> None:
        """A new Message-ID at each call: known again by envelope and body."""
        sender = OneThing(["a", "fighter"], newIdent=True, how="close")
        told = self.brought(RETRY, sender, 5, a="A", fighter="R")
        self.assertEqual({"a": "5", "fighter": "5"}, told)

    def test_M12(self) -> None:
        """A program that drops what was refused: of those who accept none is lost."""
        sender = Silent(["a", "b", "c"])
        self.assertEqual(
            dict.fromkeys("abc", "2"), self.brought(RETRY, sender, 1, a="A", b="A", c="A")
        )

    def test_comesAndGoes(self) -> None:
        """Twenty sequences of answers that change, with five kinds of sender."""
        kinds: Sequence[tuple[type[Sender], dict[str, Any]]] = (
            (Queue, {}),
            (Queue, {"pipelined": False}),
            (Exim, {"received": True}),
            (OneThing, {"how": "quit"}),
            (Repeats, {}),
        )
        for number in range(20):
            rng = random.Random(number)
            says = {
                key: "".join(rng.choice("ART") for _ in range(3)) + rng.choice("AR")
                for key in ("a", "b", "c")
            }
            for kind, options in kinds:
                sender = kind(list(says), **options)
                self.brought(RETRY, sender, 20, **says)
                self.assertEqual([], sender.pending, (number, kind, says))


class SpoolNotes(Notes):
    """
    The product's notes, in a spool on disk.  Every fifth time that something is
    noted the spool is closed, and opened again.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory
        self._reactor = PumpedReactor()
        self._puts = 0
        self._open()

    def _open(self) -> None:
        self.spool = SqliteSpool(self._directory, self._reactor, maybeDeferred)
        assert self._wait(self.spool.open()) is None
        self._notes = product.Notes(self._reactor)
        self._wait(self._notes.load(self.spool))

    def _wait(self, d: Deferred[Any]) -> Any:
        return self._reactor.wait(d)

    def close(self) -> None:
        """The end of a process."""
        self._wait(self.spool.close())

    def find(self, group: str, now: float) -> dict[str, Record]:
        """What is noted."""
        found = self._notes.find("mixed", group)
        return {key: Record.fromJSON(value) for key, value, _ in found}

    def put(self, group: str, changes: Mapping[str, Record | None], now: float) -> None:
        """Note it."""
        for name, record in changes.items():
            if record is None:
                self._wait(self._notes.forget("mixed", group, name))
            else:
                value = record.toJSON()
                self._wait(self._notes.put("mixed", group, name, value, LIFETIME_SECONDS))
        self._puts += 1
        if self._puts % 5 == 0:
            self.close()
            self._open()


class OnDiskTests(InMemoryTests):
    """
    The same, with the spool of SQLite.
    """

    def notes(self) -> Notes:
        """Where it is remembered."""
        notes = SpoolNotes(os.path.join(self.mktemp(), "spool"))
        self.addCleanup(notes.close)
        return notes
