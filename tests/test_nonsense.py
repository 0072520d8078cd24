"""
Whatever a stage returns or raises, when RCPT TO or the data is judged: the
client is answered within the deadline, only the recipients that the stage was
asked about are refused for now, and the log names the stage and the recipient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import (
    IContentStage,
    IEnvelopeStage,
    IExpectingStage,
    ITransactionObserver,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Delivered, Failed, Refuse, Retry, Route
from deferrals.testing import MemoryServer

NO = Reply(550, "5.7.1", "no")


class Unshowable:
    """
    Its text cannot be had.
    """

    def __repr__(self) -> str:
        raise ValueError("no text")


class Lying:
    """
    Fails whatever is asked of it.
    """

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError(name)


class Equal:
    """
    Says that it is equal to everything.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def raising(error: BaseException) -> Callable[[], Any]:
    """
    @return: a function that raises it.
    """

    def function() -> Any:
        raise error

    return function


def value(one: Any) -> Callable[[], Any]:
    """
    @return: a function that returns it.
    """
    return lambda: one


#: What neither an envelope stage nor a content stage may answer.
NONSENSE: dict[str, Callable[[], Any]] = {
    "yes": value("yes"),
    "true": value(True),
    "false": value(False),
    "zero": value(0),
    "a code": value(550),
    "a large number": value(10**40),
    "no number": value(float("nan")),
    "empty text": value(""),
    "octets": value(b"550 no"),
    "a reply": value(NO),
    "a reply as text": value("550 5.7.1 no"),
    "text with a line end": value("250 ok\r\n250 ok"),
    "a tuple": value((550, "no")),
    "a list": value([ACCEPT]),
    "an empty list": value([]),
    "a dictionary": value({"accept": True}),
    "a set": value({1}),
    "a class": value(Accept),
    "the class that refuses": value(Refuse),
    "an object": value(object()),
    "an outcome": value(Delivered()),
    "a failed outcome": value(Failed(NO)),
    "a retry": value(Retry(Reply(451, "4.7.1", "later"))),
    "a route": value(Route("content", "delivery")),
    "not implemented": value(NotImplemented),
    "dots": value(...),
    "what cannot be shown": value(Unshowable()),
    "what fails when looked at": value(Lying()),
    "what is equal to all": value(Equal()),
    "a function": value(len),
    "a generator": value(i for i in ()),
    "a refusal of text": lambda: Refuse("550 no"),  # type: ignore[arg-type]
    "a refusal of nothing": lambda: Refuse(None),  # type: ignore[arg-type]
    "a refusal that accepts": lambda: Refuse(Reply(250, "2.0.0", "ok")),
    "a reply with a line end": lambda: Refuse(Reply(550, "5.1.1\r\n250 ok", "x")),
    "a reply of another class": lambda: Refuse(Reply(550, "4.1.1", "x")),
    "a reply of no code": lambda: Refuse(Reply(99)),
    "an exception as an answer": value(ValueError("on purpose")),
    "an exception": raising(ValueError("on purpose")),
    "an exception that cannot be shown": raising(ValueError(Unshowable())),
    "a stage's error": raising(StageError("broken")),
    "a key error": raising(KeyError("x")),
    "a cancellation": raising(CancelledError()),
    "an end of iteration": raising(StopIteration()),
    "the end of the process": raising(SystemExit(1)),
    "memory": raising(MemoryError()),
    "recursion": raising(RecursionError()),
}


def fired(function: Callable[[], Any]) -> Deferred[Any]:
    """
    A Deferred that has fired with what the function gives.
    """
    try:
        return succeed(function())
    except BaseException as error:
        return fail(error)


class Stage:
    """
    Gives an answer in one of the ways in which a stage may answer.
    """

    def __init__(self, way: str, function: Callable[[], Any]) -> None:
        self.way = way
        self.function = function
        self.waiting: list[Deferred[Any]] = []

    def answer(self) -> Any:
        if self.way == "at once":
            return self.function()
        if self.way == "coroutine":
            return self.coroutine()
        if self.way == "Deferred":
            return fired(self.function)
        d: Deferred[Any] = Deferred()
        self.waiting.append(d)
        return d

    async def coroutine(self) -> Any:
        return self.function()

    def late(self) -> None:
        """Answer now."""
        for d in self.waiting:
            if not d.called:
                fired(self.function).chainDeferred(d)


@implementer(IEnvelopeStage)
class Envelope(Stage):
    """
    Answers so for one recipient; all others are deferred.
    """

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return self.answer() if recipient.address.local == "odd" else Defer()


@implementer(IContentStage)
class Content(Stage):
    """
    Answers so for one recipient; all others accept.
    """

    def cohort(self, recipient: Any) -> Any:
        return str(recipient)

    def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        return self.answer() if recipients[0].address.local == "odd" else ACCEPT


class Key:
    """
    Cannot be compared, and can be hashed only so often.
    """

    def __init__(self, error: BaseException, times: int) -> None:
        self.error = error
        self.times = times

    def __hash__(self) -> int:
        self.times -= 1
        if self.times < 0:
            raise self.error
        return 1

    def __eq__(self, other: object) -> bool:
        raise self.error


@implementer(IExpectingStage, ITransactionObserver)
class AtOnce:
    """
    One of its methods answers so, for one recipient; all accept.
    """

    def __init__(self, method: str, function: Callable[[], Any]) -> None:
        self.method = method
        self.function = function

    def cohort(self, recipient: Any) -> Any:
        isOdd = self.method == "cohort" and recipient.address.local == "odd"
        return self.function() if isOdd else str(recipient)

    def expect(self, message: Any, envelope: Any, recipients: Any) -> Any:
        recipients.clear()
        return self.function() if self.method == "expect" else None

    def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        recipients.clear()
        return ACCEPT

    def ended(self, envelope: Any, answers: Any, final: Any) -> Any:
        return self.function() if self.method == "ended" else None


WAYS = ("at once", "Deferred", "coroutine", "late", "never")


class NonsenseTests(SynchronousTestCase):
    """
    Each kind of nonsense, in each way.
    """

    def each(self) -> Any:
        for name, function in NONSENSE.items():
            for way in WAYS:
                yield name, way, function
        self.flushLoggedErrors()

    def settled(self, stage: Stage, server: MemoryServer, seconds: int) -> None:
        """
        Let the stage answer late, or its deadline pass.
        """
        if stage.way == "late":
            server.advance(1)
            stage.late()
            server.advance()
        elif stage.way == "never":
            for _ in range(seconds):
                server.advance(1)

    def test_envelope(self) -> None:
        """RCPT TO is answered once, for now; the next recipient as ever."""
        for name, way, function in self.each():
            stage = Envelope(way, function)
            server = MemoryServer(envelope=stage)
            session = server.session()
            session.say("EHLO c", "MAIL FROM:<a@b.test>")
            with capturedLogs() as logged:
                said = session.say("RCPT TO:<odd@x.test>", "RCPT TO:<even@x.test>")
                self.settled(stage, server, 31)
                said += session.heard()
            codes = [line[:3] for line in said]
            self.assertEqual(codes, ["451", "250"], (name, way))
            text = "".join(map(formatEvent, logged))
            self.assertIn("odd@x.test", text, (name, way))
            self.assertIn("Envelope", text, (name, way))
            self.assertFalse(session.isClosed)

    def test_content(self) -> None:
        """The recipient's own reply is for now; the other one has the message."""
        for name, way, function in self.each():
            stage = Content(way, function)
            server = MemoryServer(content=stage)
            session = server.session()
            session.say("EHLO c", "MAIL FROM:<a@b.test> PRDR")
            session.say("RCPT TO:<odd@x.test>", "RCPT TO:<even@x.test>", "DATA", "")
            with capturedLogs() as logged:
                said = session.say(".")
                self.settled(stage, server, 53)
                said += session.heard()
                server.advance()
            codes = [line[:3] for line in said]
            self.assertEqual(codes, ["353", "451", "250", "250"], (name, way))
            self.assertEqual([str(one) for _, one, _ in server.delivered], ["even@x.test"])
            text = "".join(map(formatEvent, logged))
            self.assertIn("Content", text, (name, way))
            self.assertIn("odd@x.test", text, (name, way))
            self.assertEqual(session.say("NOOP")[0][:3], "250")

    def test_whatAnswersAtOnce(self) -> None:
        """
        C{cohort}, C{expect} and C{ended}: what one of them does wrong is
        answered for the recipient alone, and the session goes on.
        """
        codes = {"cohort": ["451", "250", "354", "250"], "expect": None, "ended": None}
        for name, function in NONSENSE.items():
            for method, expected in codes.items():
                stage = AtOnce(method, function)
                server = MemoryServer(content=stage)
                session = server.session()
                session.say("EHLO c", "MAIL FROM:<a@b.test> PRDR")
                said = session.say("RCPT TO:<odd@x.test>", "RCPT TO:<even@x.test>", "DATA", "", ".")
                told = [line[:3] for line in said]
                isKey = method == "cohort" and told[0] == "250"  # it can be hashed
                if expected is None or isKey:
                    expected = ["250", "250", "354", "250"]
                self.assertEqual(told, expected, (name, method))
                self.assertEqual(session.say("NOOP")[0][:3], "250", (name, method))
                server.advance(1)
                self.assertIn("even@x.test", [str(one) for _, one, _ in server.delivered])
        self.flushLoggedErrors()

    def test_keys(self) -> None:
        """
        Cohort keys that cannot be compared, or not be hashed again: the
        recipients are cohorts of their own, however the sender is told.
        """
        for error in (ValueError("on purpose"), SystemExit(1)):
            for times in range(12):
                for form in ("", " PRDR", " DEFERRALS"):
                    stage = AtOnce("cohort", partial(Key, error, times))
                    server = MemoryServer(content=stage)
                    session = server.session()
                    session.say("EHLO c", f"MAIL FROM:<a@b.test>{form}")
                    said = session.say("RCPT TO:<odd@x.test>", "RCPT TO:<odd@y.test>")
                    codes = {"": "250 250", " PRDR": "250 250", " DEFERRALS": "352 352"}[form]
                    if times == 0:
                        codes = "451 451"
                    where = (error, times, form)
                    self.assertEqual(" ".join(line[:3] for line in said), codes, where)
                    if times:
                        self.assertEqual(session.say("DATA", "", ".")[-1][:3], "250", where)
        self.flushLoggedErrors()

    def test_lost(self) -> None:
        """A client that is gone meanwhile: the stage is let go of, and nothing is delivered."""
        for stage in (Envelope("never", value(None)), Content("never", value(None))):
            kind = "envelope" if isinstance(stage, Envelope) else "content"
            server = MemoryServer(**{kind: stage})
            session = server.session()
            session.say("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<odd@x.test>", "DATA", "", ".")
            self.assertEqual(len(stage.waiting), 1)
            session.lose()
            self.assertTrue(stage.waiting[0].called)
            server.advance(100)
            self.assertEqual(server.delivered, [])
