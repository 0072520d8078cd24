"""
The promises of the mixed rung, as properties of the procedure
(L{deferrals.model.mixed}), without a server: exact answers; it moves; agreement
costs nothing; strangers teach nothing.

Senders, verdicts, the order of attempts and strangers are made up from one random
number, so that an example is that number.  After each transaction all that is
remembered goes through text, as over a restart.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixed import Rules
from tests.mixed.procedures import Procedure
from tests.mixed.senders import (
    Exim,
    OneThing,
    Queue,
    Repeats,
    Sender,
    Silent,
    Single,
    Stranger,
    bring,
    shuffled,
    subsets,
)
from tests.mixed.world import Client, Message, Server
from tests.rigs import examples

RETRY, SPLIT = Rules(), Rules(split=True)

#: More examples by a variable; the long form of the checks sets it.
EXAMPLES = int(os.environ.get("DEFERRALS_MIXED_EXAMPLES", examples(100)))

numbers = st.integers(0, 2**32)
often = settings(max_examples=EXAMPLES, deadline=None)


@attrs.frozen
class Kind:
    """
    Senders, and how many attempts each of their recipients may need at most,
    where verdicts stand still (the table of C{docs/mixed.md}).  An attempt counts
    for a recipient if it is named in it.

    @ivar make: its further arguments, from a random number.
    @ivar accepts: of those who accept.
    @ivar refuses: of those who refuse, where none refuses for now.
    @ivar beside: of those who refuse, beside one that refuses for now.
    """

    sender: type[Sender]
    accepts: int
    refuses: int
    beside: int
    make: Callable[[random.Random], dict[str, Any]] = lambda rng: {}


def inOrder(rng: random.Random) -> dict[str, Any]:
    """The order stays, or is another one at each attempt."""
    return {"order": shuffled(rng)} if rng.random() < 0.5 else {}


#: A sender of one thing is told within so many attempts.
AT_ONCE, ONE_THING = 1, 5

KINDS = {
    "queue": Kind(Queue, 2, 3, 3, lambda rng: {"pipelined": True, **inOrder(rng)}),
    "queue, one by one": Kind(Queue, 2, 3, 4, lambda rng: {"pipelined": False, **inOrder(rng)}),
    "parts": Kind(Queue, 3, 3, 5, lambda rng: {"parts": subsets(rng)}),
    "parts, one by one": Kind(
        Queue, 6, 6, 7, lambda rng: {"pipelined": False, "parts": subsets(rng)}
    ),
    "single": Kind(Single, 1, 1, 1),
    "silent": Kind(Silent, 2, 2, 2),
}


def verdictsOf(rng: random.Random, kinds: str, least: int = 2) -> dict[str, str]:
    """Recipients, each with what it says."""
    return {f"r{number}": rng.choice(kinds) for number in range(rng.randrange(least, 7))}


def still(verdicts: dict[str, str], rng: random.Random, rules: Rules = RETRY) -> Server:
    """A server where each recipient always says the same."""
    judge = lambda key, message, now: verdicts[key]  # noqa: E731
    return Server(Procedure(rules), judge, lot=lambda: rng.randrange(1000))


class MovesTests(SynchronousTestCase):
    """
    Promise 1, with one message under way and verdicts that stand still.
    """

    def bounded(self, kind: Kind, number: int) -> None:
        """One message."""
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["AR", "ART", "AT", "RT"]))
        server = still(verdicts, rng)
        sender = kind.sender(list(verdicts), **kind.make(rng))
        bring(server, [sender], 20)
        refuses = kind.beside if "T" in verdicts.values() else kind.refuses
        for key, verdict in verdicts.items():
            if verdict == "A":
                self.assertEqual("2", sender.told[key])
                self.assertLessEqual(sender.named[key], kind.accepts)
                self.assertEqual(1, server.copies[key, sender.message])
            elif verdict == "R":
                self.assertIn(sender.told[key], "5-" if kind.sender is Silent else "5")
                self.assertLessEqual(sender.named[key], refuses)

    @often
    @given(numbers)
    def test_queue(self, number: int) -> None:
        """A queue that names all that are left in each transaction."""
        self.bounded(KINDS["queue"], number)

    @often
    @given(numbers)
    def test_queueOneByOne(self, number: int) -> None:
        """The same, and each RCPT waits for its answer."""
        self.bounded(KINDS["queue, one by one"], number)

    @often
    @given(numbers)
    def test_parts(self, number: int) -> None:
        """A queue that brings some here and some there."""
        self.bounded(KINDS["parts"], number)

    @often
    @given(numbers)
    def test_partsOneByOne(self, number: int) -> None:
        """The same, and each RCPT waits for its answer."""
        self.bounded(KINDS["parts, one by one"], number)

    @often
    @given(numbers)
    def test_single(self, number: int) -> None:
        """One recipient in each transaction."""
        self.bounded(KINDS["single"], number)

    @often
    @given(numbers)
    def test_silent(self, number: int) -> None:
        """
        It drops who was sent away once the rest was taken: these never accept.
        """
        self.bounded(KINDS["silent"], number)

    @often
    @given(numbers)
    def test_exim(self, number: int) -> None:
        """
        Who accepts has it at the second attempt.  Who refuses is told at the
        third, or once no recipient refuses for now any longer.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["AR", "ART", "AT", "RT"]))
        server = still(verdicts, rng)
        options = {"bdat": rng.random() < 0.5, "received": True, **inOrder(rng)}
        sender = Exim(list(verdicts), pipelined=rng.random() < 0.5, **options)
        bring(server, [sender], 8)
        for key, verdict in verdicts.items():
            if verdict == "A":
                self.assertEqual(("2", True), (sender.told.get(key), sender.named[key] <= 2))
        waits = "T" in verdicts.values()
        for key in verdicts:
            verdicts[key] = "R" if verdicts[key] == "T" else verdicts[key]
        bring(server, [sender], 3)
        for key, verdict in verdicts.items():
            if verdict == "R":
                self.assertEqual("5", sender.told.get(key), verdicts)
                self.assertTrue(waits or sender.named[key] <= 3)

    @often
    @given(numbers)
    def test_temporaryComesRound(self, number: int) -> None:
        """
        Who refused for now and then accepts has it within three attempts.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, "ART")
        verdicts["last"] = "T"
        server = still(verdicts, rng)
        sender = Queue(list(verdicts), pipelined=rng.random() < 0.5, **inOrder(rng))
        bring(server, [sender], rng.randrange(1, 8))
        verdicts["last"] = rng.choice("AR")
        before = sender.named["last"]
        bring(server, [sender], 8)
        self.assertLessEqual(sender.named["last"] - before, 4)
        self.assertEqual({"A": "2", "R": "5"}[verdicts["last"]], sender.told["last"])

    @often
    @given(numbers)
    def test_whateverTheOthersSay(self, number: int) -> None:
        """
        Who accepts has the message after at most one attempt for each cohort,
        plus one, whatever the others answer: each time another thing.  With
        C{split}, plus two.
        """
        rng = random.Random(number)
        rules = rng.choice([RETRY, SPLIT])
        keys = [f"r{n}" for n in range(rng.randrange(2, 7))]
        cohorts = {key: rng.randrange(4) for key in keys}
        good = cohorts[keys[0]]

        def judge(key: str, message: Message, now: float) -> str:
            if cohorts[key] == good:
                return "A"
            return random.Random(f"{number} {cohorts[key]} {now}").choice("ART")

        server = Server(Procedure(rules), judge, cohorts.__getitem__)
        sender = Queue(rng.sample(keys, len(keys)))
        bring(server, [sender], 12)
        most = len(set(cohorts.values())) + (2 if rules.split else 1)
        for key in keys:
            if cohorts[key] == good:
                self.assertEqual("2", sender.told.get(key))
                self.assertLessEqual(sender.named[key], most)

    @often
    @given(numbers)
    def test_splitIsBounded(self, number: int) -> None:
        """
        With C{split}: cohorts plus two, and one more for who refuses.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["A", "AR", "ART"]))
        server = still(verdicts, rng, SPLIT)
        sender = Queue(list(verdicts), pipelined=rng.random() < 0.5, **inOrder(rng))
        bring(server, [sender], 20)
        for key, verdict in verdicts.items():
            if verdict != "T":
                self.assertLessEqual(sender.named[key], len(verdicts) + 2 + (verdict == "R"))
                self.assertEqual({"A": "2", "R": "5"}[verdict], sender.told[key])


class OneThingTests(SynchronousTestCase):
    """
    A sender that gives up the whole message, in whatever way.
    """

    @often
    @given(numbers)
    def test_isTold(self, number: int) -> None:
        """
        Within five attempts it is told one thing that names who refuses; while
        one of them refuses for now, it is a 4xx.  Nobody gets a copy before.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["A", "AR", "ART", "AT", "R"]))
        server = still(verdicts, rng)
        sender = OneThing(
            list(verdicts),
            how=rng.choice(["rset", "quit", "close"]),
            namesAll=rng.random() < 0.5,
            pipelined=rng.random() < 0.5,
            newIdent=rng.random() < 0.5,
            declares=rng.random() < 0.5,
            **inOrder(rng),
        )
        bring(server, [sender], ONE_THING)
        if "T" in verdicts.values():
            self.assertFalse(sender.told)
            for key in verdicts:
                verdicts[key] = verdicts[key].replace("T", "A")
            bring(server, [sender], ONE_THING)
        said = "5" if "R" in verdicts.values() else "2"
        self.assertEqual(dict.fromkeys(verdicts, said), sender.told)
        copies = 0 if said == "5" else 1
        self.assertEqual({copies}, {server.copies[key, sender.text] for key in verdicts})


class RepeatsTests(SynchronousTestCase):
    """
    A program that goes on, says that it failed, and is called again with all.
    """

    @often
    @given(numbers)
    def test_comesToAnEnd(self, number: int) -> None:
        """
        It ends, in time, with no more than one copy of the same message, and not
        more of what only looks so than a server would have taken that refuses
        the same recipients at RCPT: one for each call.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["A", "AR", "ART", "AT"]))
        server = still(verdicts, rng)
        sender = Repeats(
            list(verdicts),
            pipelined=rng.random() < 0.5,
            newIdent=rng.random() < 0.5,
            declares=rng.random() < 0.5,
            **inOrder(rng),
        )
        bring(server, [sender], ONE_THING)
        accept = [key for key, verdict in verdicts.items() if verdict == "A"]
        if "T" in verdicts.values():
            for key in verdicts:
                verdicts[key] = verdicts[key].replace("T", "A")
            bring(server, [sender], ONE_THING)
        self.assertEqual([], sender.pending)
        for key in accept:
            copies = sum(n for (who, _), n in server.copies.items() if who == key)
            most = 1 + sender.attempts // 2 if sender.newIdent else 1
            self.assertTrue(1 <= copies <= most, (copies, verdicts))


class AgreementTests(SynchronousTestCase):
    """
    Promise 2.
    """

    @often
    @given(numbers, st.sampled_from(["A", "R", "T"]))
    def test_costsNothing(self, number: int, verdict: str) -> None:
        """
        Mail on which all agree is answered at the first attempt, and nothing is
        remembered of it.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, verdict)
        server = still(verdicts, rng)
        kind = rng.choice([Queue, Exim, OneThing, Repeats, Silent])
        sender = kind(list(verdicts), pipelined=rng.random() < 0.5)
        bring(server, [sender], 1)
        said = {"A": "2", "R": "5"}.get(verdict)
        self.assertEqual(dict.fromkeys(verdicts, said) if said else {}, sender.told)
        assert isinstance(server.procedure, Procedure)
        self.assertFalse(any(server.procedure.notes.groups.values()))

    @often
    @given(numbers)
    def test_afterOneThatNeverComesAgain(self, number: int) -> None:
        """
        A message was mixed, and its program gave it up.  Of the mail that all
        accept, and that the program sends to the same recipients after that, one
        message comes in parts at most, although nothing tells it from the other
        before the data.
        """
        rng = random.Random(number)
        names = [f"r{n}" for n in range(rng.randrange(2, 6))]
        said = {name: rng.choice("AR") for name in names}
        first = Message("<first@honest.example>", "body")
        judge = lambda key, message, now: said[key] if message == first else "A"  # noqa: E731
        server = Server(Procedure(RETRY), judge, lot=lambda: rng.randrange(1000))
        options: dict[str, Any] = {"pipelined": rng.random() < 0.5, **inOrder(rng)}
        bring(server, [Silent(names, first, **options)], 1)
        parts = 0
        for place in range(5):
            sender = Silent(names, Message(f"<{place}@honest.example>", f"body {place}"), **options)
            bring(server, [sender], 1)
            parts += sender.told != dict.fromkeys(names, "2")
        self.assertLessEqual(parts, 1)


def mixture(number: int, rules: Rules, kinds: Sequence[type[Sender]], strangers: int = 0) -> Server:
    """
    Several messages of one sender at the same time, verdicts that change, and
    strangers.

    @raise AssertionError: an answer is not exact, or a message does not end.
    """
    rng = random.Random(number)
    names = [f"r{n}" for n in range(rng.randrange(2, 6))]
    tables: dict[str, dict[str, list[str]]] = {}
    senders: list[Sender] = []
    for place in range(rng.randrange(1, 4)):
        keys = rng.sample(names, rng.randrange(1, len(names) + 1))
        message = Message(f"<{place}@honest.example>", f"body {place}", 2000 + 1000 * place)
        tables[message.digest] = {
            name: [*(rng.choice("AART") for _ in range(6)), rng.choice("AAR")] for name in names
        }
        kind = rng.choice(kinds)
        options: dict[str, Any] = inOrder(rng)
        if kind is Queue and rng.random() < 0.4:
            options["parts"] = subsets(rng)
        if kind is Exim:
            options |= {"bdat": rng.random() < 0.5, "received": True}
        if kind is OneThing:
            options |= {"how": rng.choice(["rset", "quit", "close"])}
            options |= {"namesAll": rng.random() < 0.5}
        if kind in (OneThing, Repeats, Silent):
            options |= {"newIdent": rng.random() < 0.5}
        options |= {"pipelined": rng.random() < 0.5, "declares": rng.random() < 0.8}
        senders.append(kind(keys, message, **options))

    def judge(key: str, message: Message, now: float) -> str:
        table = tables.get(message.digest)
        if table is None:
            return rng.choice("ART")
        return table[key][min(int(now - 1000) // 1200, 6)]

    server = Server(Procedure(rules), judge, lot=lambda: rng.randrange(1000))
    lot = random.Random(number)
    others = [Stranger(Client(f"198.51.100.{n}"), lot, names) for n in range(strangers)]
    bring(server, senders, 60, others)
    for sender in senders:
        assert not sender.pending, (sender.pending, tables[sender.message.digest])
        for key, told in sender.told.items():
            found = server.copies.items()
            copies = [n for (who, m), n in found if (who, m.digest) == (key, sender.message.digest)]
            assert copies or told != "2", f"{key} was said to have it"
            assert sender.newIdent or sum(copies) <= 1, f"{key} has several copies"
    return server


class MixtureTests(SynchronousTestCase):
    """
    Several messages, verdicts that change, an adversary.  The server checks each
    answer; see L{mixture} for the rest.
    """

    @often
    @example(625)
    @example(1200)
    @given(numbers)
    def test_isExactAndEnds(self, number: int) -> None:
        """
        Several messages of one kind of sender: a 2xx is for those that accept,
        a 5xx for those that refuse, and all come to their end.
        """
        kind = [Queue, Exim, Single, OneThing, Repeats, Silent][number % 6]
        mixture(number, RETRY, [kind])

    @often
    @example(1774)
    @example(1817)
    @example(3981)
    @given(numbers)
    def test_ofSeveralKinds(self, number: int) -> None:
        """
        The same with one return path that senders of different kinds use.
        """
        mixture(number, RETRY, [Queue, Exim, Single, Repeats, Silent])

    @often
    @given(numbers)
    def test_amongStrangers(self, number: int) -> None:
        """
        The same with strangers that use the name between all attempts.
        """
        mixture(number, RETRY, [Queue, Exim, Single, Repeats, Silent], strangers=2)

    @often
    @given(numbers)
    def test_unknownExim(self, number: int) -> None:
        """
        One that behaves like Exim, and does not say so, is not told a refusal
        for good while others were sent away that may accept.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, "AR")
        server = still(verdicts, rng, rng.choice([RETRY, SPLIT]))
        sender = Exim(list(verdicts), pipelined=rng.random() < 0.5, **inOrder(rng))
        bring(server, [sender], 20)
        for key, verdict in verdicts.items():
            self.assertEqual(int(verdict == "A"), server.copies[key, sender.message])

    @example(334)
    @example(1082)
    @example(1175)
    @example(1487)
    @settings(max_examples=1)
    @given(st.just(5))
    def test_someGiveUp(self, number: int) -> None:
        """
        One return path that is used by programs of which one gives up, and the
        others do not: single runs, since it does not hold for all (see
        C{docs/mixed.md}).
        """
        mixture(number, RETRY, [Queue, Exim, Single, OneThing, Repeats, Silent])

    @often
    @given(numbers)
    def test_split(self, number: int) -> None:
        """
        The same with C{split}.
        """
        mixture(number, SPLIT, [Queue, Exim, Single])


class StrangersTests(SynchronousTestCase):
    """
    Promise 3: the honest sender's dialogues are the same with strangers and
    without.
    """

    def dialogue(self, number: int, honest: Client, strangers: Sequence[Client]) -> object:
        """What the honest sender was answered."""
        rng = random.Random(number)
        verdicts = verdictsOf(rng, "ART")
        server = still(verdicts, random.Random(0))
        server.lot = lambda: 0
        sender = Queue(list(verdicts), clients=(honest,), pipelined=rng.random() < 0.5)
        evil = [Stranger(one, random.Random(number), list(verdicts)) for one in strangers]
        bring(server, [sender], 10, evil)
        return [entry for entry in server.log if entry[1] is honest]

    def same(self, number: int, honest: Client, *strangers: Client) -> None:
        """With and without."""
        alone = self.dialogue(number, honest, [])
        self.assertEqual(alone, self.dialogue(number, honest, strangers))

    @often
    @given(numbers)
    def test_fromAnotherNetwork(self, number: int) -> None:
        """Neither side has SPF."""
        self.same(number, Client("192.0.2.1"), Client("198.51.100.1"), Client("203.0.113.9"))

    @often
    @given(numbers)
    def test_fromTheSameNetwork(self, number: int) -> None:
        """The honest sender has SPF; or neither has, and the address is another one."""
        self.same(number, Client("192.0.2.1", spf="honest.example"), Client("192.0.2.2"))
        self.same(number, Client("192.0.2.1"), Client("192.0.2.2"))

    @often
    @given(numbers)
    def test_aLogin(self, number: int) -> None:
        """A login's mail is nobody else's."""
        self.same(number, Client(user="alice"), Client(user="mallory"), Client())

    def test_aFlood(self) -> None:
        """
        A thousand messages in the sender's name take nothing from it.
        """
        honest = Client("192.0.2.1")
        flood = [Client(f"198.51.{n // 250}.{n % 250}") for n in range(100)]
        for number in range(5):
            self.same(number, honest, *flood)


class LooksTheSameTests(SynchronousTestCase):
    """
    M9: what strangers can share is no identity; and legitimate mail that looks
    the same is no duplicate.
    """

    def test_strangersWithOneBody(self) -> None:
        """
        Five senders say that a disk is full, without Message-ID.  Each is
        answered as if it were alone.
        """
        verdicts = {"a": "A", "b": "R"}
        server = still(verdicts, random.Random(0))
        message = Message("", "disk is full")
        senders = [
            Queue(["a", "b"], message, clients=(Client(f"203.0.{n}.1"),), path=lambda _: "root@x")
            for n in range(5)
        ]
        bring(server, senders, 3)
        self.assertEqual([{"a": "2", "b": "5"}] * 5, [sender.told for sender in senders])
        self.assertEqual([2] * 5, [sender.named["a"] for sender in senders])
        self.assertEqual(5, server.copies["a", message])

    def test_theSameSenderAgain(self) -> None:
        """
        One sender says so ten times.  Each time it is delivered.
        """
        verdicts = {"a": "A", "b": "R"}
        server = still(verdicts, random.Random(0))
        message = Message("", "disk is full")
        for _ in range(10):
            sender = Queue(["a", "b"], message)
            bring(server, [sender], 6)
            self.assertEqual({"a": "2", "b": "5"}, sender.told)
        self.assertEqual(10, server.copies["a", message])

    def test_aNewMessageID(self) -> None:
        """
        A new Message-ID is a new message, although the body is the same.
        """
        server = still({"a": "A", "b": "R"}, random.Random(0))
        for number in range(10):
            sender = Queue(["a", "b"], Message(f"<{number}@x>", "lunch?"))
            bring(server, [sender], 6)
            self.assertEqual({"a": "2", "b": "5"}, sender.told)
            self.assertEqual(1, server.copies["a", sender.message])

    @often
    @given(numbers)
    def test_inParts(self, number: int) -> None:
        """
        Messages of one body that come after and between one another, in parts:
        each is delivered, once.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, "AAR")
        server = still(verdicts, rng)
        senders = [
            Queue(
                list(verdicts),
                Message(rng.choice(["", f"<{place}@x>"]), "lunch?"),
                parts=subsets(rng),
                pipelined=rng.random() < 0.5,
            )
            for place in range(3)
        ]
        for _ in range(30):
            for sender in rng.sample(senders, rng.randrange(1, 4)):
                sender.come(server)
        self.assertEqual([[]] * 3, [sender.pending for sender in senders])
        for key, verdict in verdicts.items():
            copies = sum(n for (who, _), n in server.copies.items() if who == key)
            self.assertEqual(3 if verdict == "A" else 0, copies)


class LostReplyTests(SynchronousTestCase):
    """
    The sender did not see the last reply, and brings the message again.  Each
    recipient loses one answer: a sender that brings one that has the message twice
    more is taken for one that brings all again at each call.
    """

    @often
    @given(numbers)
    def test_noSecondCopy(self, number: int) -> None:
        """
        Who has it gets no second copy, and each gets its own answer: none that
        has it is refused with one that refuses.
        """
        rng = random.Random(number)
        verdicts = verdictsOf(rng, rng.choice(["AR", "ART"]))
        server = still(verdicts, rng, rng.choice([RETRY, SPLIT]))
        options = {"pipelined": rng.random() < 0.5, **inOrder(rng)}
        kind = rng.choice([Queue, Exim])
        if kind is Exim:
            options |= {"bdat": rng.random() < 0.5, "received": True}
        sender, lost = kind(list(verdicts), **options), set[str]()
        for _ in range(12):
            before = dict(sender.told)
            sender.come(server)
            server.now += 300
            new = sender.told.keys() - before
            if rng.random() < 0.4 and lost.isdisjoint(new):
                sender.told = before
                lost |= new
        for key in verdicts:
            verdicts[key] = verdicts[key].replace("T", "A")
        bring(server, [sender], 12)
        said = {key: {"A": "2", "R": "5"}[verdict] for key, verdict in verdicts.items()}
        self.assertEqual(said, sender.told)
        if len(set(verdicts.values())) > 1:
            most = max(server.copies.values(), default=0)
            self.assertLessEqual(most, 1)
