"""
The nine promises to who writes stages (C{docs/writing-a-stage.md}), by a whole
server: a stage that relies on each of them.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer

from deferrals import interfaces
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IExpectingStage,
    ISenderStage,
    ITransactionObserver,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    ACCEPT,
    Accept,
    Defer,
    Delivered,
    Failed,
    Marks,
    Refuse,
    Retry,
)
from deferrals.testing import MemoryServer

#: The methods that promise 9 freezes.
METHODS = {
    "IEnvelopeStage": {"judgeRecipient"},
    "ISenderStage": {"judgeSender"},
    "IContentStage": {"cohort", "judge"},
    "IExpectingStage": {"expect"},
    "IDeliveryStage": {"destination", "deliver"},
    "IReportingDelivery": {"deliverReporting"},
    "IBinaryDelivery": set(),
    "ILocalDelivery": set(),
    "ISharingDelivery": set(),
    "ITransactionObserver": {"ended"},
    "IStagePlugin": {"name", "stage", "settings", "build"},
    "IOutwardPlugin": set(),
}


@implementer(ISenderStage, IEnvelopeStage, IExpectingStage, IDeliveryStage, ITransactionObserver)
class Everything:
    """
    All kinds of stage in one; remembers each call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self.learnt: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
        self.last: list[str] = []
        self.outcomes: list[Any] = []
        self.marks = Marks()

    def called(self, name: str, envelope: Any, about: Any = None) -> None:
        self.calls.append((name, about))
        self.threads.add(threading.get_ident())
        if envelope is not None:
            self.learnt.setdefault(envelope, []).append(name)
            self.last = list(self.learnt[envelope])

    def counted(self) -> Counter[str]:
        return Counter(name for name, _ in self.calls)

    def judgeSender(self, envelope: Any) -> Any:
        self.called("judgeSender", envelope)
        return succeed(None)

    async def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        self.called("judgeRecipient", envelope, str(recipient))
        return Defer()

    def cohort(self, recipient: Any) -> Any:
        return recipient.address.domain

    def expect(self, message: Any, envelope: Any, recipients: Any) -> None:
        self.called("expect", envelope, [str(one) for one in recipients])

    async def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        self.called("judge", envelope, [str(one) for one in recipients])
        return Accept(self.marks) if recipients[0].address.domain == "marked.test" else ACCEPT

    def destination(self, recipient: Any) -> str:
        return "test"

    async def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        self.called("deliver", None, [str(one) for one in recipients])
        outcome = self.outcomes.pop(0) if self.outcomes else Delivered()
        return dict.fromkeys(recipients, outcome)

    def ended(self, envelope: Any, answers: Any, final: Any) -> None:
        self.called("ended", envelope, final and final.code)


class PromiseTests(SynchronousTestCase):
    """
    Each promise, by its number.
    """

    def setUp(self) -> None:
        self.stage = Everything()
        self.server = MemoryServer(envelope=self.stage, content=self.stage, delivery=self.stage)
        self.session = self.server.session()

    def mail(self, *recipients: str, form: str = "PRDR") -> list[str]:
        rcpts = [f"RCPT TO:<{one}>" for one in recipients]
        said = self.session.say(
            "EHLO c", f"MAIL FROM:<a@b.test> {form}", *rcpts, "DATA", "Subject: x", "", "hi", "."
        )
        self.server.advance()
        return said

    def test_1_thread(self) -> None:
        """All calls are in the reactor's thread."""
        self.mail("a@x.test", "b@x.test")
        self.assertEqual(self.stage.threads, {threading.get_ident()})

    def test_2_howOften(self) -> None:
        """Once for each RCPT, once for each cohort, once after the reply; again after a retry."""
        self.stage.outcomes = [Retry(Reply(451, "4.2.0", "later"))]
        self.mail("a@x.test", "b@x.test", "c@y.test")
        found = self.stage.counted()
        self.assertEqual((found["judgeRecipient"], found["expect"], found["judge"]), (3, 1, 2))
        before = found["deliver"]
        for _ in range(30):
            self.server.advance(60)
        self.assertEqual(self.stage.counted()["deliver"], before + 1)

    def test_2_pipelined(self) -> None:
        """Several of one transaction at once, if they come so."""
        waiting: list[Deferred[Any]] = []

        def judge(envelope: Any, recipient: Any) -> Any:
            waiting.append(Deferred())
            return waiting[-1]

        self.stage.judgeRecipient = judge  # type: ignore[method-assign, assignment]
        self.session.say("EHLO c", "MAIL FROM:<a@b.test>")
        self.session.say("RCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nNOOP")
        self.assertEqual(len(waiting), 2)
        waiting[1].callback(Defer())
        self.assertEqual(self.session.say(), [])
        waiting[0].callback(Defer())
        self.server.advance()
        self.assertEqual([line[:3] for line in self.session.heard()], ["250", "250", "250"])

    def test_3_envelope(self) -> None:
        """One object for all calls before the final reply; what is learnt goes with it."""
        self.mail("a@x.test", "b@y.test")
        self.assertEqual(
            Counter(self.stage.last),
            {"judgeSender": 1, "judgeRecipient": 2, "expect": 1, "judge": 2, "ended": 1},
        )
        gc.collect()
        self.assertEqual(len(self.stage.learnt), 0)

    def test_4_synchronous(self) -> None:
        """A coroutine where an answer is needed at once refuses for now, and is no riddle."""

        async def cohort(recipient: Any) -> Any:
            return "all"

        self.stage.cohort = cohort  # type: ignore[method-assign]
        self.session.say("EHLO c", "MAIL FROM:<a@b.test>")
        self.assertEqual(self.session.say("RCPT TO:<a@x.test>")[0][:3], "451")
        self.flushLoggedErrors()

    def test_5_cancelled(self) -> None:
        """What is not waited for any longer is cancelled at its await, and C{finally} runs."""
        happened: list[str] = []

        async def judge(message: Any, envelope: Any, recipients: Any) -> Any:
            try:
                await Deferred()
            except CancelledError:
                happened.append("cancelled")
                raise
            finally:
                happened.append("finally")

        self.stage.judge = judge  # type: ignore[method-assign]
        self.mail("a@x.test")
        self.session.lose()
        self.assertEqual(happened, ["cancelled", "finally"])

    def test_6_values(self) -> None:
        """Values are checked in the stage's own frame."""
        for make in (
            lambda: Refuse("550 no"),  # type: ignore[arg-type]
            lambda: Reply("550"),  # type: ignore[arg-type]
            lambda: Failed(None),  # type: ignore[arg-type]
            lambda: Retry("later"),  # type: ignore[arg-type]
        ):
            self.assertRaises(TypeError, make)

    def test_7_identity(self) -> None:
        """A stage that cannot be hashed is said at once; equal ones are two."""

        @implementer(IContentStage)
        @attrs.define
        class Values:
            def cohort(self, recipient: Any) -> Any:
                return None

            def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
                return ACCEPT

        self.assertRaises(TypeError, MemoryServer, content=Values())

    def test_8_marks(self) -> None:
        """Marks never show in another recipient's copy."""
        self.stage.marks = Marks(headers=(("X-Secret", "only for one"),))
        copies: dict[str, Any] = {}

        async def deliver(message: Any, envelope: Any, recipients: Any) -> Any:
            copies.update({str(one): one.marks for one in recipients})
            return dict.fromkeys(recipients, Delivered())

        self.stage.deliver = deliver  # type: ignore[method-assign]
        self.mail("a@marked.test", "b@x.test")
        self.assertEqual(copies["a@marked.test"].headers, (("X-Secret", "only for one"),))
        self.assertEqual(copies["b@x.test"], Marks())

    def test_9_methods(self) -> None:
        """The interfaces that others implement have these methods, and never another one."""
        for name, methods in METHODS.items():
            interface: type[Interface] = getattr(interfaces, name)
            listed = [base for base in interface.getBases() if base.getName() in METHODS]
            inherited = {method for base in listed for method in base.names(all=True)}
            self.assertEqual(set(interface.names(all=True)) - inherited, methods, name)
