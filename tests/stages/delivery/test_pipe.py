"""
The delivery C{pipe}, without a program.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IBinaryDelivery
from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.settings import Octets, Seconds
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
from deferrals.stages.delivery.pipe import (
    KILL_SECONDS,
    LAST_WORDS_SECONDS,
    R250_DELIVERED,
    R451_NO_PROCESS,
    R451_NOT_RUN,
    R451_TOO_MUCH,
    R451_TOO_SLOW,
    PipeDelivery,
    PipeSettings,
    outcomeOf,
)
from deferrals.testing import (
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)

_T = TypeVar("_T")


class Program:
    """
    A program that runs, as its protocol sees it.
    """

    def __init__(self, protocol: Any, words: list[bytes], environment: dict[str, str]) -> None:
        self.protocol = protocol
        self.words = [os.fsdecode(word) for word in words]
        self.environment = environment
        self.stdin = b""
        self.did: list[str] = []
        self.ended = False
        self.producer: Any = None
        protocol.makeConnection(self)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.stdin += data

    def closeStdin(self) -> None:
        self.did.append("stdin closed")

    def loseConnection(self) -> None:
        self.did.append("left")

    def signalProcess(self, name: str) -> None:
        self.did.append(name)
        if "gone" in self.did:
            raise ProcessExitedAlready

    def takeAll(self) -> None:
        while self.producer is not None:
            self.producer.resumeProducing()

    def exit(self, status: int = 0, signal: int | None = None, *, ended: bool = True) -> None:
        """
        The program ends; C{ended}: so do its pipes.
        """
        self.ended = True
        good = status == 0 and signal is None
        reason = Failure(ProcessDone(0) if good else ProcessTerminated(status, signal))
        self.protocol.processExited(reason)
        if ended:
            self.protocol.processEnded(reason)


class Reactor(Clock):
    """
    A clock that starts programs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.programs: list[Program] = []
        self.error: OSError | None = None

    def spawnProcess(
        self, protocol: Any, path: bytes, words: list[bytes], environment: Any, directory: str
    ) -> None:
        if self.error is not None:
            raise self.error
        self.programs.append(Program(protocol, words, environment))


class PipeContractTests(ReportingDeliveryContract, SynchronousTestCase):
    """
    L{PipeDelivery} as a delivery stage.
    """

    def makeStage(self) -> PipeDelivery:
        self.reactor = Reactor()
        settings = PipeSettings((sys.executable,), timeout=Seconds(60))
        return PipeDelivery(settings, FakeServices("/", self.reactor))

    def makeHalting(self) -> PipeDelivery:
        return self.makeStage()

    def settle(self) -> None:
        self.reactor.programs[0].exit()

    def resultOf(self, d: Deferred[_T]) -> _T:
        for program in self.reactor.programs:
            if not program.ended:
                program.exit()
        return super().resultOf(d)


class PipeTests(SynchronousTestCase):
    """
    L{PipeDelivery}.
    """

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.message = makeMessage(b"Subject: x\r\n\r\nhello\r\n")

    def stage(self, *words: str, **settings: Any) -> PipeDelivery:
        settings = {"timeout": Seconds(60), **settings}
        words = words or (sys.executable,)
        return PipeDelivery(PipeSettings(words, **settings), FakeServices("/", self.reactor))

    def deliver(
        self, stage: PipeDelivery | None = None, *addresses: str
    ) -> Deferred[dict[Addressee, Outcome]]:
        people = makeAddressees(*(addresses or ("a@x.example",)))
        return (stage or self.stage()).deliver(self.message, makeEnvelope(), people)

    def outcome(self, d: Deferred[dict[Addressee, Outcome]]) -> Outcome:
        (found,) = self.successResultOf(d).values()
        return found

    def test_delivered(self) -> None:
        """The program has the message on its standard input; its status is the outcome."""
        d = self.deliver()
        (program,) = self.reactor.programs
        program.takeAll()
        self.assertTrue(program.stdin.startswith(b"Return-Path: <sender@example.com>\n"))
        self.assertTrue(program.stdin.endswith(b"Subject: x\n\nhello\n"))
        self.assertEqual(program.did, ["stdin closed"])
        program.protocol.childDataReceived(1, b"filed\n")
        self.assertNoResult(d)
        program.exit()
        outcome = self.outcome(d)
        self.assertEqual(outcome, Delivered(Reply(250, "2.0.0", "delivered")))
        self.assertIn("filed", outcome.details.cause)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lineEnds(self) -> None:
        """The octets are those that came in where the program can bear that."""
        stage = self.stage(line_ends="crlf")
        self.assertTrue(IBinaryDelivery.providedBy(stage))
        self.assertFalse(IBinaryDelivery.providedBy(self.stage()))
        self.deliver(stage)
        self.reactor.programs[0].takeAll()
        self.assertTrue(self.reactor.programs[0].stdin.endswith(b"Subject: x\r\n\r\nhello\r\n"))

    def test_words(self) -> None:
        """An address stays in its word, whatever it has; so in the environment."""
        stage = self.stage(sys.executable, "--to={recipient}", "{local}", "{domain}", "{sender}")
        address = '"a b;$(x) {sender}"@x.example'
        self.deliver(stage, address)
        (program,) = self.reactor.programs
        (addressee,) = makeAddressees(address)
        local = addressee.recipient.address.local
        self.assertEqual(
            program.words,
            [sys.executable, f"--to={addressee}", local, "x.example", "sender@example.com"],
        )
        self.assertIn("$(x) {sender}", local)
        self.assertEqual(
            sorted(program.environment), ["PATH", "RECIPIENT", "SENDER", "TRANSACTION"]
        )
        self.assertEqual(program.environment["RECIPIENT"], str(addressee))

    def test_destination(self) -> None:
        """All recipients of one program share its limits."""
        (addressee,) = makeAddressees("a@x.example")
        found = self.stage().destination(addressee.recipient)
        self.assertEqual(found, f"pipe {sys.executable}")

    def test_each(self) -> None:
        """Each recipient has a program of its own, so many at once."""
        d = self.deliver(self.stage(processes=2), "a@x.example", "b@x.example", "c@x.example")
        self.assertEqual(len(self.reactor.programs), 2)
        self.reactor.programs[1].exit(67)
        self.assertEqual(len(self.reactor.programs), 3)
        self.reactor.programs[0].exit()
        self.reactor.programs[2].exit(75)
        kinds = [type(outcome) for outcome in self.successResultOf(d).values()]
        self.assertEqual(kinds, [Delivered, Failed, Retry])

    def test_slow(self) -> None:
        """
        A program that takes too long is asked to end, and killed a little later;
        once it is gone another one may run.
        """
        stage = self.stage(processes=1)
        d = self.deliver(stage)
        self.reactor.advance(59.9)
        self.assertNoResult(d)
        self.reactor.advance(0.2)
        self.assertEqual(self.outcome(d), Retry(R451_TOO_SLOW))
        (program,) = self.reactor.programs
        self.assertEqual(program.did, ["TERM"])
        self.deliver(stage)
        self.reactor.advance(KILL_SECONDS)
        self.assertEqual(program.did, ["TERM", "KILL"])
        self.assertEqual(len(self.reactor.programs), 1)
        program.exit(0, 9)
        self.assertIn("left", program.did)
        self.assertEqual(len(self.reactor.programs), 2)

    def test_cancel(self) -> None:
        """Cancelled, it is asked to end; that it has ended already does no harm."""
        for gone in ([], ["gone"]):
            d = self.deliver()
            self.reactor.programs[-1].did += gone
            d.cancel()
            self.failureResultOf(d, CancelledError)
            self.assertIn("TERM", self.reactor.programs[-1].did)

    def test_saysTooMuch(self) -> None:
        """A program that says too much is ended, and tried again; no more is kept of it."""
        d = self.deliver(self.stage(output=Octets(10)))
        (program,) = self.reactor.programs
        program.protocol.childDataReceived(1, b"x" * 10)
        self.assertNotIn("TERM", program.did)
        program.protocol.childDataReceived(2, b"x")
        self.assertEqual(program.did, ["TERM"])
        for _ in range(100):
            program.protocol.childDataReceived(2, b"x" * 1000)
        self.assertEqual(len(program.protocol._said), 11)
        self.assertEqual(program.did, ["TERM"])
        program.exit(0, 9)
        self.assertEqual(self.outcome(d), Retry(R451_TOO_MUCH))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_leftTalking(self) -> None:
        """What a program leaves behind says what it likes: the message was taken once."""
        d = self.deliver(self.stage(output=Octets(10)))
        (program,) = self.reactor.programs
        program.exit(0, ended=False)
        for _ in range(3):
            program.protocol.childDataReceived(1, b"x" * 1000)
        self.reactor.advance(LAST_WORDS_SECONDS)
        self.assertIsInstance(self.outcome(d), Delivered)
        self.assertEqual(len(program.protocol._said), 11)

    def test_lastWords(self) -> None:
        """What it has started may keep its pipes open: that is not waited for long."""
        d = self.deliver()
        (program,) = self.reactor.programs
        program.exit(67, ended=False)
        self.assertNoResult(d)
        program.protocol.childDataReceived(2, b"no such user")
        self.reactor.advance(LAST_WORDS_SECONDS)
        outcome = self.outcome(d)
        refused = "the program for this recipient refuses the message"
        self.assertEqual(outcome.reply, Reply(550, "5.1.1", refused))
        self.assertIn("no such user", outcome.details.cause)
        self.assertIn("left", program.did)

    def test_unreadable(self) -> None:
        """A program that was given half a message has not delivered it, whatever it says."""

        def gone() -> None:
            raise FileNotFoundError

        self.patch(self.message, "open", gone)
        d = self.deliver()
        (program,) = self.reactor.programs
        with capturedLogs() as logged:
            program.takeAll()
        self.assertEqual(program.did[0], "KILL")
        program.exit(0)
        self.assertEqual(self.outcome(d), Retry(R451_LOCAL_ERROR))
        self.assertEqual([one["error"] for one in logged], ["FileNotFoundError: "])

    def test_cannotRun(self) -> None:
        """
        A program that is not there, or cannot be started now, is tried again; the
        sender is told neither its path nor the error.
        """
        for words, error, reply, cause in (
            (("/nonexistent/program",), None, R451_NOT_RUN, "/nonexistent/program"),
            ((), OSError(11, "Resource temporarily unavailable"), R451_NO_PROCESS, "temporarily"),
            ((), OSError(12, "Cannot allocate memory"), R451_NO_PROCESS, "allocate"),
            ((), OSError(13, "Permission denied"), R451_NOT_RUN, "Permission denied"),
        ):
            self.reactor.error = error
            stage = self.stage(*words)
            outcome = self.outcome(self.deliver(stage))
            self.assertEqual(outcome, Retry(reply))
            self.assertIn(cause, outcome.details.cause)
            self.assertEqual(stage._slots.free, 5)


class OutcomeTests(SynchronousTestCase):
    """
    L{outcomeOf}: sysexits.h.
    """

    def test_table(self) -> None:
        """What each exit status comes to."""
        for status, kind, code, enhanced in (
            (0, Delivered, 250, "2.0.0"),
            (1, Failed, 550, "5.3.0"),
            (65, Failed, 550, "5.6.0"),
            (67, Failed, 550, "5.1.1"),
            (73, Failed, 550, "5.2.0"),
            (75, Retry, 451, "4.3.0"),
            (77, Failed, 550, "5.7.0"),
            (78, Retry, 451, "4.3.5"),
            (126, Retry, 451, "4.3.5"),
            (127, Retry, 451, "4.3.5"),
            (None, Retry, 451, "4.3.0"),
        ):
            found = outcomeOf(status, b"")
            self.assertIsInstance(found, kind, status)
            self.assertEqual((found.reply.code, found.reply.enhanced), (code, enhanced), status)

    def test_words(self) -> None:
        """What the program has said is for the log: in one line, and not too long."""
        for said, cause in (
            (b"", "ended with status 65: "),
            (b" \r\n", "ended with status 65: "),
            (b"no\r\nway \xff", "ended with status 65: no way \ufffd"),
            (b"x" * 5000, f"ended with status 65: {'x' * 478}"),
        ):
            found = outcomeOf(65, said)
            text = "the program for this recipient refuses the message"
            self.assertEqual(found, Failed(Reply(550, "5.6.0", text)))
            self.assertEqual(found.details.cause, cause.strip())
        self.assertEqual(outcomeOf(0, b""), Delivered(R250_DELIVERED))

    def test_told(self) -> None:
        """A first line with an enhanced code of the outcome's class is for the sender."""
        for status, said, enhanced, text in (
            (65, b"5.7.1 takes no mail from you\nTraceback ...", "5.7.1", "takes no mail from you"),
            (75, b"4.2.2 the mailbox is full \r\n", "4.2.2", "the mailbox is full"),
            (65, b"5.7.1 a\x1b[0m\0b", "5.7.1", r"a\x{1B}[0m\x{00}b"),
            (65, b"5.7.1 " + b"x" * 400, "5.7.1", "x" * 200),
        ):
            reply = outcomeOf(status, said).reply
            self.assertEqual((reply.enhanced, reply.text), (enhanced, text))
        for status, said in (
            (65, b"4.2.2 full"),
            (75, b"5.7.1 never"),
            (65, b"log: 5.7.1 no"),
            (65, b"5.7.1"),
            (65, b"5.7.1 \n/srv/secret"),
            (65, b"\n5.7.1 no"),
        ):
            self.assertIn("the program for this recipient", outcomeOf(status, said).reply.text)

    def test_noRoom(self) -> None:
        """A program that could start nothing has not refused (E4)."""
        for said in (
            b"/usr/bin/deliver: 3: Cannot fork",
            b"bash: fork: retry: Resource temporarily unavailable",
            b"BlockingIOError: [Errno 11] Resource temporarily unavailable",
            b"OSError: [Errno 12] Cannot allocate memory",
        ):
            for status in (1, 2, 254):
                self.assertEqual(outcomeOf(status, said), Retry(R451_NO_PROCESS))
            self.assertIsInstance(outcomeOf(67, said), Failed)  # that is said on purpose


class SettingsTests(SynchronousTestCase):
    """
    L{PipeSettings}.
    """

    def test_command(self) -> None:
        """An absolute path, and words that can be filled."""
        PipeSettings(("/bin/cat", "{recipient}{local}{domain}{sender}", "{{}}"))
        for words, text in (
            ((), "an absolute path"),
            (("cat",), "an absolute path"),
            (("/bin/cat", "{user}"), "text in which"),
            (("/bin/cat", "{}"), "text in which"),
            (("/bin/cat", "{"), "text in which"),
            (("/bin/cat", "{sender.x}"), "text in which"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                PipeSettings(words)
