"""
From the end of the data to the final reply.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, NOWHERE, Accept, Expand, Marks, Refuse
from deferrals.spool.message import BodyWriter
from deferrals.stages.content.judge import ContentJudge
from tests.harness import GREETING, Bench
from tests.requirements import requirement

SPAM = Refuse(Reply(550, "5.7.1", "spam"))


def codes(said: bytes | list[str]) -> list[str]:
    """
    @return: the codes of replies.
    """
    lines = said.decode().splitlines() if isinstance(said, bytes) else said
    return [line[:3] for line in lines]


class PostDataTests(SynchronousTestCase):
    """
    One message, whose data has ended.
    """

    def start(
        self, *locals: str, parameters: str = "", cohorts: str = "", **settings: Any
    ) -> list[str]:
        """
        Send a message: C{accept…} is taken by the envelope, any other recipient
        is left to the content.

        @param cohorts: a character for each recipient; without it each is one.
        @return: what is said at once to the end of the data.
        """
        self.bench = Bench(**settings)
        keys = zip(locals, cohorts, strict=False)
        self.bench.content.cohorts.update({f"{local}@x.test": key for local, key in keys})
        self.bench.say("LHLO c" if settings.get("protocol") == "lmtp" else GREETING[0])
        self.bench.say(f"MAIL FROM:<a@b.example>{parameters}")
        for local in locals:
            if local.startswith("accept"):
                self.bench.envelope.verdicts[f"{local}@x.test"] = "accept"
            self.bench.say(f"RCPT TO:<{local}@x.test>")
        return self.bench.say("DATA", "Subject: x", "", "text", ".")[1:]

    def decide(self, local: str, verdict: Any) -> list[str]:
        """
        @return: what is said when the content has decided about a recipient.
        """
        self.bench.content.decide(f"{local}@x.test", verdict)
        return self.bench.take().decode().splitlines()

    @requirement("S-2")
    def test_onlyDeferred(self) -> None:
        """The content is asked about deferred recipients, and not about accepted ones."""
        said = self.start("accept", "one", parameters=" PRDR")
        self.assertEqual(said, [])
        self.assertEqual([asked for asked, _ in self.bench.content.asked], [["one@x.test"]])

    def test_cohortTogether(self) -> None:
        """The replies that one cohort's verdict lets be said leave in one piece."""
        self.start("a", "b", "c", "d", "e", parameters=" PRDR", cohorts="12122")
        self.assertEqual(self.decide("a", ACCEPT), [])
        sent: list[bytes] = []
        self.patch(self.bench.transport, "write", sent.append)
        self.decide("b", SPAM)
        pieces = [codes(piece) for piece in sent]
        self.assertEqual(pieces, [["353", "250", "550", "250", "550", "550"], ["250"]])

    def test_noneDeferred(self) -> None:
        """Where the envelope has decided all, the content is not asked."""
        self.assertEqual(codes(self.start("accept")), ["250"])
        self.assertEqual(self.bench.content.asked, [])

    @requirement("S-3")
    def test_stored(self) -> None:
        """What is stored are the recipients that accept, each mailbox once."""
        self.start("accept", "one", "accept", "two", parameters=" PRDR")
        said = self.decide("one", SPAM) + self.decide("two", ACCEPT)
        self.assertEqual(codes(said), ["353", "250", "550", "250", "250", "250"])
        self.assertEqual(self.bench.released, ["accept@x.test", "two@x.test"])

    def test_nothingStored(self) -> None:
        """Where all refuse, nothing is stored, and the message is dropped."""
        self.start("one")
        self.assertEqual(codes(self.decide("one", SPAM)), ["550"])
        self.assertEqual((self.bench.released, self.bench.spool.held), ([], []))
        self.assertEqual(self.successResultOf(self.bench.spool.waiting()), (0, 0))

    def test_dropped(self) -> None:
        """The content of what is refused is dropped; that of what is stored is not."""
        for verdict, count in ((SPAM, 1), (ACCEPT, 0)):
            dropped: list[BodyWriter] = []
            self.patch(BodyWriter, "abort", lambda writer, told=dropped: told.append(writer))
            self.start("one")
            self.decide("one", verdict)
            self.assertEqual(len(dropped), count)

    def test_nowhere(self) -> None:
        """
        A recipient that throws the message away is told apart from no other on the wire:
        it has no copy, and the log says what became of it.
        """
        told = ["353", "250", "550", "250", "250"]
        for parameters in (" PRDR", " DEFERRALS"):
            with capturedLogs() as events:
                self.start("one", "two", "three", parameters=parameters)
                said = self.decide("one", Accept(nowhere=True, why="odd"))
                said += self.decide("two", SPAM) + self.decide("three", ACCEPT)
            self.assertEqual(codes(said), told)
            self.assertEqual(self.bench.released, ["three@x.test"])
            (event,) = (one for one in events if one.get("outcome") == "discarded")
            self.assertEqual((event["recipient"], event["cause"]), ("one@x.test", "odd"))
            self.assertEqual(self.bench.status.counted("deliveries", ("none", "discarded")), 1)

    def test_nowhereAll(self) -> None:
        """Where nothing is left to be stored, nothing is, and the content is dropped."""
        dropped: list[BodyWriter] = []
        self.patch(BodyWriter, "abort", lambda writer: dropped.append(writer))
        for settings in ({}, {"protocol": "lmtp"}, {"enumerate": "delivery"}):
            self.start("one", "two", **settings)
            said = self.decide("one", NOWHERE) + self.decide("two", NOWHERE)
            self.assertEqual(set(codes(said)), {"250"})
            self.assertEqual((self.bench.released, self.bench.spool.held), ([], []))
        self.assertEqual(len(dropped), 3)

    def test_nowhereInTheEnvelope(self) -> None:
        """The same where an envelope stage has said so: the content is not asked."""
        self.bench = Bench()
        self.bench.say(*GREETING, "MAIL FROM:<a@b.example>")
        self.bench.envelope.verdicts["one@x.test"] = NOWHERE
        self.assertEqual(codes(self.bench.say("RCPT TO:<one@x.test>")), ["250"])
        self.assertEqual(codes(self.bench.say("DATA", "Subject: x", "", "y", ".")[1:]), ["250"])
        self.assertEqual((self.bench.content.asked, self.bench.released), ([], []))

    @requirement("S-3")
    def test_routes(self) -> None:
        """A mailbox that two routes lead to has a copy by each."""
        self.bench = Bench()
        self.bench.say(*GREETING, "MAIL FROM:<a@b.example>")
        for verdict in ("accept", "defer"):
            self.bench.envelope.verdicts["one@x.test"] = verdict
            self.bench.say("RCPT TO:<one@x.test>")
        self.bench.say("DATA", "Subject: x", "", "text", ".")
        self.assertEqual(codes(self.decide("one", ACCEPT)), ["250"])
        self.assertEqual(self.bench.released, ["one@x.test"] * 2)

    def test_marks(self) -> None:
        """What the content says of a recipient is stored with that one."""
        self.start("one", "two", parameters=" PRDR")
        marks = Marks(junk=True)
        self.decide("one", ACCEPT)
        self.decide("two", Accept(marks=marks))
        (work,) = self.bench.works
        self.assertEqual([one.marks for one in work.addressees], [ACCEPT.marks, marks])

    def test_judgeFails(self) -> None:
        """A judge that fails is answered at once: for now."""
        broken = fail(ValueError("on purpose"))
        self.patch(ContentJudge, "judge", lambda *args: [broken])
        self.assertEqual(codes(self.start("one")), ["451"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_durableFirst(self) -> None:
        """There is no positive end before the message is durable."""
        self.start("one")
        self.bench.spool.slow = True
        self.assertEqual(self.decide("one", ACCEPT), [])
        self.assertEqual(self.bench.released, [])
        self.bench.spool.go()
        self.assertEqual(codes(self.bench.take()), ["250"])
        self.assertEqual(self.bench.released, ["one@x.test"])

    def test_notDurable(self) -> None:
        """A spool that fails: the message is refused for now, and nothing is released."""

        def broken(*args: object) -> Deferred[Any]:
            raise OSError("full")

        for stage in (broken, lambda *args: fail(OSError("full"))):
            self.start("one")
            self.bench.spool.stage = stage  # type: ignore[method-assign]
            with capturedLogs():
                said = self.decide("one", ACCEPT)
            self.assertEqual([line[:9] for line in said], ["452 4.3.1"])
            self.assertEqual(self.bench.released, [])
        self.flushLoggedErrors()

    @requirement("D-25")
    def test_late(self) -> None:
        """A verdict that is overdue is 451, its question is cancelled, and the others count."""
        self.start("one", "two", parameters=" PRDR", reply_deadline=10.0)
        self.decide("one", ACCEPT)
        self.bench.clock.advance(9)
        before = codes(self.bench.take())
        self.bench.clock.advance(20)
        self.assertEqual(before + codes(self.bench.take()), ["353", "250", "451", "250"])
        self.assertEqual(self.bench.content.cancelled, ["two@x.test"])
        self.assertEqual(self.bench.released, ["one@x.test"])

    def test_tooLate(self) -> None:
        """What a stage says after its deadline changes nothing."""
        self.start("one", reply_deadline=10.0)
        self.bench.clock.advance(10)
        self.assertEqual(codes(self.bench.take()), ["451"])
        self.bench.content.decide("one@x.test", ACCEPT)
        self.assertEqual((self.bench.take(), self.bench.released), (b"", []))

    def test_slowSpool(self) -> None:
        """A spool that is too slow: refused for now, and what it stores later is abandoned."""
        self.start("one", reply_deadline=10.0)
        self.bench.spool.slow = True
        self.decide("one", ACCEPT)
        self.bench.clock.advance(10)
        self.assertEqual(self.bench.take()[:9], b"452 4.3.1")
        self.bench.spool.go()
        self.assertEqual(self.bench.released, [])
        self.assertEqual(len(self.bench.spool.abandoned), 1)

    def test_window(self) -> None:
        """353 is held back for a while, in the hope of one answer for all."""
        self.start("one", "two", "three", parameters=" PRDR", consolidation_window=3.0)
        self.decide("one", ACCEPT)
        self.bench.clock.advance(2)
        self.assertEqual(self.bench.take(), b"")
        self.bench.clock.advance(1)
        self.assertEqual(codes(self.bench.take()), ["353", "250"])

    def test_unanimous(self) -> None:
        """Where all say the same within that time, it is one answer."""
        self.start("one", "two", parameters=" PRDR", consolidation_window=3.0)
        self.decide("one", ACCEPT)
        self.assertEqual(codes(self.decide("two", ACCEPT)), ["250"])
        self.bench.clock.advance(3)
        self.assertEqual(self.bench.take(), b"")

    @requirement("P-12")
    def test_givenUp(self) -> None:
        """A connection that we close: 4xx for what is outstanding, and nothing is kept."""
        self.start("one")
        self.bench.session.shutdownNow()
        self.assertEqual({code[0] for code in codes(self.bench.take())}, {"4"})
        self.assertEqual(self.bench.content.cancelled, ["one@x.test"])
        self.assertEqual(self.bench.released, [])
        self.bench.lose()
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_rung(self) -> None:
        """The counters say how the sender was told, once for each transaction."""
        for form, locals, verdicts, wanted in (
            ("", ("one",), (ACCEPT,), "single"),
            ("", ("one", "two"), (ACCEPT, ACCEPT), "unanimous"),
            ("", ("one", "two"), (ACCEPT, SPAM), "mixed"),
            (" PRDR", ("one", "two"), (ACCEPT, SPAM), "prdr"),
        ):
            self.start(*locals, parameters=form, mixed=Mixed.STRICTEST)
            for local, verdict in zip(locals, verdicts, strict=True):
                self.decide(local, verdict)
            counted = [
                name
                for name in ("single", "unanimous", "mixed", "prdr", "deferrals", "aborted")
                if self.bench.status.counted("transactions", name)
            ]
            self.assertEqual(counted, [wanted])

    @requirement("D-15")
    def test_clientGone(self) -> None:
        """A client that is lost before the final reply still owns the message, at each step."""
        for step in ("judged", "stored"):
            self.start("one")
            self.bench.spool.slow = True
            if step == "stored":
                self.decide("one", ACCEPT)
            self.bench.lose()
            self.bench.spool.go()
            self.assertEqual(self.bench.released, [], step)
            self.assertEqual(self.bench.status.counted("transactions", "aborted"), 1)
            self.assertEqual(self.successResultOf(self.bench.spool.waiting()), (0, 0))
            self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_next(self) -> None:
        """The session goes on with the next message, with no timer of the one before."""
        self.start("accept")
        timers = len(self.bench.clock.getDelayedCalls())
        self.assertEqual(timers, 1, "only the session's own")
        said = self.bench.say("MAIL FROM:<a@b.example>", "RCPT TO:<accept@x.test>")
        self.assertEqual(codes(said), ["250", "250"])


class OrdinaryTests(SynchronousTestCase):
    """
    Faults in the midst of the ordinary way: messages that the envelope has accepted,
    one behind the other on one connection.
    """

    MESSAGE = (
        "MAIL FROM:<a@b.example>",
        "RCPT TO:<postmaster@x.test>",
        "DATA",
        "Subject: x",
        "",
        "text",
        ".",
    )

    def setUp(self) -> None:
        self.bench = Bench(reply_deadline=10.0)
        self.bench.say(*GREETING)

    def message(self) -> list[str]:
        """
        @return: the codes of what is said to a whole message, and perhaps to others.
        """
        return codes(self.bench.say(*self.MESSAGE))

    def wait(self, seconds: int) -> list[str]:
        """
        @return: the codes of what is said meanwhile.
        """
        for _ in range(seconds):
            self.bench.clock.advance(1)
        return codes(self.bench.take())

    def test_hangs(self) -> None:
        """
        A commit that hangs: the message is refused when its own deadline is over, what
        becomes durable then is abandoned, and the next message is taken.
        """
        for _ in range(3):
            self.assertEqual(self.message(), ["250", "250", "354", "250"])
            self.wait(7)
        self.bench.spool.slow = True
        self.assertEqual(self.message(), ["250", "250", "354"])
        self.assertEqual(self.wait(9), [])
        self.assertEqual(self.wait(1), ["452"])
        self.bench.spool.go()
        self.assertEqual((len(self.bench.released), len(self.bench.spool.abandoned)), (3, 1))
        self.bench.spool.slow = False
        self.assertEqual(self.message(), ["250", "250", "354", "250"])
        self.assertEqual(len(self.bench.released), 4)

    def test_deadlines(self) -> None:
        """The deadline of a message is no other message's, and not that of the next command."""
        self.bench.spool.slow = True
        for _ in range(3):
            self.message()
            self.assertEqual(self.wait(9), [])
            self.bench.spool.go()
            self.assertEqual(codes(self.bench.take()), ["250"])
        self.assertEqual(self.wait(250), [])
        self.assertEqual(self.wait(60), ["421"])  # of silence

    def test_leaves(self) -> None:
        """
        A client that leaves before the reply still owns the message; what it has sent
        behind it is not taken.
        """
        self.bench.spool.slow = True
        self.bench.say(*self.MESSAGE, *self.MESSAGE)
        self.bench.lose()
        self.bench.spool.go()
        self.assertEqual((self.bench.released, len(self.bench.spool.abandoned)), ([], 1))
        self.assertEqual(self.bench.status.counted("transactions", "aborted"), 1)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def octets(self, *more: str) -> bytes:
        """
        @return: two messages in one piece, and more behind them.
        """
        return "".join(f"{line}\r\n" for line in (*self.MESSAGE * 2, *more)).encode()

    def test_pieces(self) -> None:
        """Where a stream is cut into two pieces makes no difference, octet by octet."""
        stream = self.octets("QUIT")
        self.bench.send(stream)
        whole = codes(self.bench.take())
        for place in range(1, len(stream)):
            self.setUp()
            self.bench.send(stream[:place])
            self.bench.send(stream[place:])
            self.assertEqual(codes(self.bench.take()), whole, place)
            self.assertEqual((len(self.bench.released), self.bench.closed), (2, True), place)

    def test_leavesAnywhere(self) -> None:
        """
        A client leaves behind any octet: a message whose reply was written is ours, one
        that was becoming durable is abandoned, and nothing of the session is left.
        """
        stream = self.octets()
        for place in range(len(stream) + 1):
            for isSlow in (False, True):
                self.setUp()
                self.bench.spool.slow = isSlow
                self.bench.send(stream[:place])
                accepted, held = self.bench.take().count(b"250 2.6.0"), len(self.bench.spool.held)
                self.bench.lose()
                self.bench.spool.go()
                found = len(self.bench.released), len(self.bench.spool.abandoned)
                self.assertEqual(found, (accepted, held), place)
                self.assertEqual(self.bench.clock.getDelayedCalls(), [], place)

    def test_behind(self) -> None:
        """What comes behind a message waits for its reply, and is answered then."""
        self.bench.spool.slow = True
        self.assertEqual(codes(self.bench.say(*self.MESSAGE, "NOOP")), ["250", "250", "354"])
        self.bench.spool.go()
        self.assertEqual(codes(self.bench.take()), ["250", "250"])

    def test_fails(self) -> None:
        """A commit that fails, at once or later: refused for now, and nothing is released."""
        for isLate in (False, True):
            waiting: Deferred[Any] = Deferred()
            failing = waiting if isLate else fail(OSError("full"))
            self.patch(self.bench.spool, "stage", lambda *args, failing=failing: failing)
            with capturedLogs():
                said = self.message()
                if isLate:
                    waiting.errback(OSError("full"))
                    said += codes(self.bench.take())
            self.assertEqual((said[-1], self.bench.released), ("452", []))
            self.flushLoggedErrors()


class ToldTests(SynchronousTestCase):
    """
    Who keeps refusals is told of each, of the recipient that it is about.
    """

    def bench(self, **settings: Any) -> Bench:
        self.told: list[tuple[str, str, str, bool]] = []

        def refused(
            envelope: Any, recipient: Any, stage: str, verdict: Refuse, message: Any
        ) -> None:
            said = str(verdict.reply)[:3]
            self.told.append((str(recipient), stage, said, message is not None))

        return Bench(backend={"refused": refused}, **settings)

    def send(self, bench: Bench, *recipients: str, **verdicts: Refuse) -> list[str]:
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", *(f"RCPT TO:<{r}>" for r in recipients))
        bench.say("DATA")
        bench.say("Subject: x", "", "x", ".")
        for name, verdict in verdicts.items():
            bench.content.decide(f"{name}@example.net", verdict)
        bench.turns()
        return bench.take().decode().splitlines()

    def test_content(self) -> None:
        """By the content, with the message; not those who accept."""
        bench = self.bench()
        self.send(bench, "postmaster@example.net", "anna@example.net", anna=SPAM)
        self.assertEqual(self.told, [("anna@example.net", "content", "550", True)])

    def test_envelope(self) -> None:
        """Before the data, without one."""
        bench = self.bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<old-user@example.net>")
        self.assertEqual(self.told, [("old-user@example.net", "envelope", "550", False)])

    def test_members(self) -> None:
        """Of an alias its members are told of, and not the alias."""
        bench = self.bench()
        members = ("anna@example.net", "old-user@example.net", "bert@example.net")
        bench.envelope.verdicts["all@example.net"] = Expand(tuple(map(Mailbox.parse, members)))
        self.send(bench, "all@example.net", anna=SPAM, bert=SPAM)
        self.assertEqual(
            sorted(self.told),
            [
                ("anna@example.net", "content", "550", True),
                ("bert@example.net", "content", "550", True),
                ("old-user@example.net", "envelope", "550", False),
            ],
        )
