"""
Stages that decide about senders, at MAIL FROM.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import IEnvelopeStage, ISenderStage, ITransactionObserver
from deferrals.model.reply import Reply
from deferrals.model.verdict import Defer, Refuse
from deferrals.testing import MemoryServer

NO = Refuse(Reply(550, "5.7.1", "not from you"))


@implementer(IEnvelopeStage, ISenderStage, ITransactionObserver)
class Senders:
    """
    Says of each sender what it is told.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.finals: list[Any] = []

    def judgeSender(self, envelope: Any) -> Any:
        self.asked.append(envelope.senderText)
        return self.answer() if callable(self.answer) else self.answer

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return Defer()

    def ended(self, envelope: Any, answers: Any, final: Any) -> None:
        self.finals.append(final and final.code)


class SenderTests(SynchronousTestCase):
    """
    L{ISenderStage}, by a whole server.
    """

    def ask(self, answer: Any) -> str:
        self.stage = Senders(answer)
        self.server = MemoryServer(envelope=self.stage)
        self.session = self.server.session()
        said = self.session.say("EHLO c", "MAIL FROM:<a@b.test>")
        return said[-1][:3] if not said[-1].startswith("250-") else ""

    def test_answers(self) -> None:
        """A value, a Deferred or a coroutine; nothing lets the sender in."""

        async def refuses() -> Any:
            return NO

        for answer, code in ((None, "250"), (succeed(None), "250"), (NO, "550"), (refuses, "550")):
            self.assertEqual(self.ask(answer), code)
            self.assertEqual(self.stage.asked, ["a@b.test"])

    def test_refused(self) -> None:
        """A refused sender has no transaction, may try another, and its end was told."""
        self.assertEqual(self.ask(NO), "550")
        self.assertEqual(self.session.say("RCPT TO:<c@d.test>")[0][:3], "503")
        self.stage.answer = None
        self.assertEqual(self.session.say("MAIL FROM:<b@b.test>")[0][:3], "250")
        self.assertEqual(self.stage.finals, [550])

    def test_nonsense(self) -> None:
        """A stage that raises or answers nonsense refuses for now."""

        def raises() -> Any:
            raise RuntimeError("broken")

        for answer in ("yes", 5, True, Defer(), raises):
            self.assertEqual(self.ask(answer), "451", answer)
            self.assertEqual(self.stage.finals, [451])
        self.flushLoggedErrors()

    def test_late(self) -> None:
        """One that never answers does so, too, within its deadline; what is pipelined waits."""
        cancelled: list[Any] = []
        self.ask(Deferred(cancelled.append))
        self.assertEqual(self.session.say("NOOP"), [])
        self.server.advance(31)
        self.assertEqual([line[:3] for line in self.session.heard()], ["451", "250"])
        self.assertEqual(len(cancelled), 1)

    def test_lost(self) -> None:
        """A client that does not wait for it has its end told once, and the stage lets go."""
        cancelled: list[Any] = []
        self.ask(Deferred(cancelled.append))
        self.session.lose()
        self.assertEqual((len(cancelled), self.stage.finals), (1, [None]))
