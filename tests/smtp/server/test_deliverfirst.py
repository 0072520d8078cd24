"""
Delivery first, then the answer (S-6).
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Outcome, Refuse, Retry
from tests.harness import Bench
from tests.requirements import requirement

FULL = Retry(Reply(452, "4.2.2", "the mailbox is full"))
NEVER = Failed(Reply(550, "5.6.0", "no such content"))

#: The id of the first transaction on the bench.
REFERENCE = "(id 0X3AAA4000000)"


class SessionTests(SynchronousTestCase):
    """
    A session whose listener has C{enumerate = "delivery"}.
    """

    outcome: Any = None

    def start(self, *locals: str, sender: str = "<me@client.test>", **settings: Any) -> list[str]:
        self.bench = Bench(backend={"attempt": self.attempt}, **settings)
        lmtp = settings.get("protocol") == "lmtp"
        self.bench.content.verdicts["spammed@x.example"] = Refuse(Reply(550, "5.7.1", "spam"))
        self.bench.say("LHLO c" if lmtp else "EHLO c", f"MAIL FROM:{sender}")
        for local in locals:
            self.bench.envelope.verdicts[f"{local}@x.example"] = (
                "defer" if local == "spammed" else "accept"
            )
            self.bench.say(f"RCPT TO:<{local}@x.example>")
        return self.bench.say("DATA", "Subject: x", "", "hello", ".")[1:]

    def attempt(self, work: Work, handsBack: bool) -> Any:
        self.work, self.handsBack = work, handsBack
        self.bench._release(work)
        if self.outcome is not None:
            return succeed(dict.fromkeys([one.seq for one in work.addressees], self.outcome))
        self.known: dict[int, Outcome] = {}
        self.expected: Deferred[Any] = Deferred(lambda d: d.callback(self.known))
        return self.expected

    def post(self, *outcomes: Any) -> list[str]:
        seqs = [addressee.seq for addressee in self.work.addressees]
        self.expected.callback(dict(zip(seqs, outcomes, strict=True)))
        return self.bench.take().decode().splitlines()

    @requirement("S-6")
    def test_smtp(self) -> None:
        """Responsibility first, then the results of delivery, enumerated in one multi-line 250."""
        said = self.start("one", "two", "three")
        self.assertEqual(said, [])
        self.assertEqual(len(self.bench.released), 3)
        first, *lines = self.post(Delivered(), FULL, NEVER)
        self.assertTrue(first.startswith("250-2.6.0 message accepted, id "), first)
        self.assertEqual(
            lines,
            [
                "250-2.6.0 <one@x.example> delivered",
                "250-2.6.0 <two@x.example> queued for retry: 452 4.2.2 the mailbox is full",
                "250 2.6.0 <three@x.example> refused, a notice is on its way:"
                " 550 5.6.0 no such content",
            ],
        )
        self.assertFalse(self.handsBack)
        self.assertEqual(len(self.bench.works), 1)
        self.assertEqual(self.bench.say("NOOP"), ["250 2.0.0 ok"])

    def test_late(self) -> None:
        """
        A delivery that is not over in time is told once, whichever deadline is met
        first; one that is, or that the client did not wait for, is not.
        """
        for delivery, reply, late in ((20, 50, 20), (50, 20, 20), (30, 30, 30)):
            self.start("one", delivery_deadline=delivery, reply_deadline=reply)
            self.bench.clock.advance(late - 1)
            self.bench.turns()
            self.assertEqual(self.bench.status.kinds("late"), {})
            self.bench.clock.advance(1)
            self.bench.turns()
            self.assertIn(b"queued", self.bench.take())
            self.assertEqual(self.bench.status.kinds("late"), {"delivery": 1})
        self.start("one")
        self.post(Delivered())
        self.bench.clock.advance(100)
        self.assertEqual(self.bench.status.kinds("late"), {})
        self.start("one")
        self.bench.lose()
        self.assertEqual(self.bench.status.kinds("late"), {})

    def test_untold(self) -> None:
        """No notice is promised to a sender to whom none can go (D11)."""
        self.start("one", sender="<me@nowhere.example>")
        (said,) = self.post(NEVER)[1:]
        self.assertEqual(said, "250 2.6.0 <one@x.example> refused: 550 5.6.0 no such content")

    def test_atOnce(self) -> None:
        """A delivery that has ended before anybody could wait for it."""
        self.outcome = Delivered()
        (said,) = self.start("one", protocol="lmtp")
        self.assertEqual(said, "250 2.1.5 <one@x.example> delivered")
        self.assertEqual(self.bench.say("NOOP"), ["250 2.0.0 ok"])

    def test_lmtp(self) -> None:
        """LMTP: one reply for each, and a refused recipient is the client's (RFC 2033 §4.2)."""
        self.start("one", "two", "three", protocol="lmtp")
        self.assertTrue(self.handsBack)
        with capturedLogs() as logged:
            said = self.post(Delivered(), FULL, NEVER)
        self.assertEqual(
            said,
            [
                "250 2.1.5 <one@x.example> delivered",
                f"452 4.2.2 <two@x.example> the mailbox is full {REFERENCE}",
                f"550 5.6.0 <three@x.example> no such content {REFERENCE}",
            ],
        )
        # Nor does the log speak of notices and retries that there are not.
        text = "".join(map(formatEvent, logged))
        self.assertIn("message accepted", text)
        self.assertNotRegex(text, "notice|queued")
        (accepted,) = (one["accepted"] for one in logged if one.get("event") == "transaction")
        self.assertEqual(accepted, 1)

    def test_contentToo(self) -> None:
        """A recipient that refuses on content is never delivered, and has its own reply."""
        said = self.start("one", "spammed", protocol="lmtp")
        self.assertEqual((said, self.bench.released), ([], ["one@x.example"]))
        self.assertEqual(
            self.post(Delivered()),
            [
                "250 2.1.5 <one@x.example> delivered",
                f"550 5.7.1 <spammed@x.example> spam {REFERENCE}",
            ],
        )

    def test_twice(self) -> None:
        """A mailbox that was named twice is delivered once, and answered twice."""
        self.start("one", "one", protocol="lmtp")
        said = f"452 4.2.2 <one@x.example> the mailbox is full {REFERENCE}"
        self.assertEqual(self.post(FULL), [said] * 2)

    def test_deadline(self) -> None:
        """What is not known in time is in the queue, and that is the answer."""
        for protocol, wanted in (
            ("smtp", "250 2.6.0 <one@x.example> queued"),
            ("lmtp", "250 2.1.5 <one@x.example> queued, not delivered yet"),
        ):
            self.start("one", protocol=protocol, delivery_deadline=7)
            self.bench.clock.advance(6)
            self.assertEqual(self.bench.take(), b"")
            self.bench.clock.advance(1)
            self.assertEqual(self.bench.take().decode().splitlines()[-1], wanted)
            self.assertTrue(self.expected.called)

    @requirement("D-25")
    def test_replyDeadline(self) -> None:
        """Never longer than C{reply_deadline}."""
        self.start("one", reply_deadline=5.0)
        self.bench.clock.advance(5)
        self.assertIn("queued", self.bench.take().decode())

    def test_lost(self) -> None:
        """A client that is gone meanwhile: the message is ours, and goes its usual way."""
        self.start("one", protocol="lmtp")
        self.bench.lose()
        self.assertEqual(self.bench.spool.abandoned, [])
        self.assertTrue(self.expected.called)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_shutdown(self) -> None:
        """A server that stops says what it knows."""
        self.start("one", "two")
        self.known[0] = Delivered()
        self.bench.session.data.postData.giveUp(Reply(421, "4.3.2", "stopping"))
        said = self.bench.take().decode()
        self.assertIn("<one@x.example> delivered", said)
        self.assertIn("<two@x.example> queued", said)

    def test_nullSender(self) -> None:
        """The client is not told that a notice is on its way when there is none."""
        self.start("one", sender="<>")
        self.assertEqual(
            self.post(NEVER)[-1], "250 2.6.0 <one@x.example> refused: 550 5.6.0 no such content"
        )
