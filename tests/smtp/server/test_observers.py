"""
Stages that are told how transactions end: exactly once, whatever ends them.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import IEnvelopeStage, ITransactionObserver
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Defer, Refuse
from deferrals.testing import MemoryServer

MAIL = ("EHLO c", "MAIL FROM:<a@b.test> PRDR")


@implementer(IEnvelopeStage, ITransactionObserver)
class Observer:
    """
    Remembers what it is told.
    """

    def __init__(self) -> None:
        self.ends: list[tuple[list[tuple[str, int]], int | None]] = []
        self.begun: list[Any] = []

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        self.begun.append(envelope)
        if recipient.address.local == "no":
            return Refuse(Reply(550, "5.1.1", "no"))
        return Accept() if recipient.address.local == "open" else Defer()

    def ended(self, envelope: Any, answers: Any, final: Any) -> Any:
        self.ends.append(([(str(one), reply.code) for one, reply in answers], final and final.code))


class ObserverTests(SynchronousTestCase):
    """
    L{ITransactionObserver}, by a whole server.
    """

    def setUp(self) -> None:
        self.observer = Observer()
        self.server = MemoryServer(envelope=self.observer)

    def said(self, *lines: str) -> Any:
        session = self.server.session()
        session.say(*MAIL, *lines)
        return session

    def test_final(self) -> None:
        """Each recipient with the last reply that was about it, and the final one."""
        self.said(
            "RCPT TO:<no@x.test>",
            "RCPT TO:<open@x.test>",
            "RCPT TO:<b@x.test>",
            "DATA",
            "",
            "hello",
            ".",
        )
        self.assertEqual(
            self.observer.ends,
            [([("no@x.test", 550), ("open@x.test", 250), ("b@x.test", 250)], 250)],
        )

    def test_withoutReply(self) -> None:
        """A transaction that is cut short has no final reply."""
        for end in ("RSET", "EHLO c", "QUIT"):
            self.setUp()
            self.said("RCPT TO:<a@x.test>", end)
            self.assertEqual(self.observer.ends, [([("a@x.test", 250)], None)], end)

    def test_lost(self) -> None:
        """So has one whose client is gone, in the envelope or in the data."""
        for more in ((), ("RCPT TO:<a@x.test>",), ("RCPT TO:<a@x.test>", "DATA", "text")):
            self.setUp()
            self.said(*more).lose()
            self.assertEqual([final for _, final in self.observer.ends], [None], more)

    def test_stopped(self) -> None:
        """Or that a shutdown or a timeout ends."""
        self.said("RCPT TO:<a@x.test>")
        self.server.server.stop(0.0)
        self.server.advance(60)
        self.assertEqual(len(self.observer.ends), 1)
        self.setUp()
        self.said()
        for _ in range(100):
            self.server.advance(60)
        self.assertEqual(self.observer.ends, [([], None)])

    def test_several(self) -> None:
        """Each transaction of a session ends once; a MAIL FROM that is no address begins none."""
        session = self.said("RSET", "MAIL FROM:<<>", "MAIL FROM:<>", "RCPT TO:<no@x.test>")
        session.say("QUIT")
        self.assertEqual(self.observer.ends, [([], None), ([("no@x.test", 550)], None)])

    def test_oneEnvelope(self) -> None:
        """A transaction has one envelope object, which can be hashed."""
        self.said("RCPT TO:<a@x.test>", "RCPT TO:<b@x.test>")
        self.assertEqual(len({id(one) for one in self.observer.begun}), 1)
        self.assertEqual(len({hash(one) for one in self.observer.begun}), 1)

    def test_broken(self) -> None:
        """An observer that raises, or wants to wait, is logged, and harms no mail."""

        async def waits(*args: Any) -> None: ...

        def raises(*args: Any) -> None:
            raise RuntimeError("broken")

        for broken in (waits, raises):
            self.setUp()
            self.observer.ended = broken  # type: ignore[method-assign]
            with capturedLogs() as logged:
                self.said("RCPT TO:<open@x.test>", "DATA", "", ".")
            self.server.advance(1)
            self.assertEqual(len(self.server.delivered), 1)
            self.assertIn("Observer.ended failed", "".join(map(formatEvent, logged)))
            self.flushLoggedErrors()
