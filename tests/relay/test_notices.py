"""
Senders are told: who, when, where to, and never about a notice.
"""

from __future__ import annotations

import email
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import Overtaken, SpoolError, StoreAway
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import NOT_TOLD
from deferrals.model.ids import TransactionIds
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule, parseSteps
from deferrals.model.settings import Seconds
from deferrals.model.verdict import Delivered, Failed, Retry, Route
from deferrals.relay.attempts import Deliveries
from deferrals.relay.notices import Author, Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.spool.memory import MemorySpool
from deferrals.spool.rows import STUCK
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage

GONE = Failed(Reply(550, "5.1.1", "gone"), "mx.x.example")
LATER = Retry(Reply(451, "4.2.0", "later"), "mx.x.example")


class Box:
    """
    A delivery that answers as it is told, by the first letter of an address,
    and keeps what it delivers.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[Any, str, bytes]] = []
        self.answers: dict[str, Any] = {"g": GONE, "l": LATER}

    def destination(self, recipient: Any) -> str:
        return "box"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        outcomes = {}
        for recipient in recipients:
            answer = self.answers.get(str(recipient)[0], Delivered())
            outcomes[recipient] = answer
            if isinstance(answer, Delivered):
                with message.open() as file:
                    self.kept.append((envelope, str(recipient), file.read()))
        return outcomes


class NotifierTests(SynchronousTestCase):
    """
    L{Notifier}, with the scheduler and a spool.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.box = Box()
        self.way: Route | None = Route("", "box")
        schedule = Schedule(parseSteps("1h"), Seconds(86400.0), Seconds(14400.0))
        self.asked: list[Mailbox] = []
        self.notifier = Notifier(
            self.spool,
            Author("mx.example.net", TransactionIds(), self.clock.seconds),
            route=self.route,
            inThread=maybeDeferred,  # type: ignore[arg-type]
            returnOctets=1000,
        )
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage={"box": self.box}.get, schedule=lambda name: schedule),  # type: ignore[arg-type]
            self.notifier,
            chance=lambda: 0.5,
        )
        self.scheduler.start()

    def route(self, sender: Mailbox) -> Route | None:
        self.asked.append(sender)
        return self.way

    def send(self, *addressees: Addressee, **parameters: Any) -> None:
        envelope = makeEnvelope(**parameters)
        d = self.spool.stage(envelope, makeMessage(), list(addressees))
        self.scheduler.release(self.successResultOf(d))

    def notify(self, address: str, *words: str) -> Addressee:
        (one,) = makeAddressees(address)
        return attrs.evolve(one, recipient=attrs.evolve(one.recipient, notify=frozenset(words)))

    def notices(self) -> list[bytes]:
        return [data for _, name, data in self.box.kept if name == "sender@example.com"]

    def left(self) -> tuple[int, int]:
        waiting: tuple[int, int] = self.successResultOf(self.spool.waiting())
        return waiting

    def test_failed(self) -> None:
        """Outcomes that come together are one DSN, from <>, to the reverse-path (RFC 3461 §6)."""
        self.send(*makeAddressees("g@x.example", "a@x.example", "g2@x.example"))
        (notice,) = self.notices()
        self.assertIn(b"<g@x.example>", notice)
        self.assertIn(b"<g2@x.example>", notice)
        self.assertNotIn(b"<a@x.example>", notice)
        envelope = self.box.kept[-1][0]
        self.assertIsNone(envelope.sender)
        self.assertEqual(self.left(), (0, 0))

    def untold(self, d: Any) -> list[str]:
        """
        What the log says of recipients whose sender was not told.
        """
        return [formatEvent(event) for event in d if event.get("event") == "untold"]

    def fits(self, isFit: Any, reply: Reply) -> None:
        """
        The way to senders takes only some notices.
        """
        deliver = self.box.deliver

        def picky(message: Any, envelope: Any, recipients: Any) -> Any:
            with message.open() as file:
                data = file.read()
            if envelope.sender is None and not isFit(data):
                self.refused.append(data)
                return {one: Failed(reply, "way.example") for one in recipients}
            return deliver(message, envelope, recipients)

        self.refused: list[bytes] = []
        self.box.deliver = picky  # type: ignore[method-assign]

    def sendLarge(self, body: bytes = b"x" * 800, **parameters: Any) -> None:
        content = b"Subject: one\r\nX-Long: " + b"y" * 100 + b"\r\n\r\n" + body + b"\r\n"
        d = self.spool.stage(
            makeEnvelope(ret="FULL", **parameters),
            makeMessage(content),
            makeAddressees("g@x.example"),
        )
        self.scheduler.release(self.successResultOf(d))

    def test_once(self) -> None:
        """One call at a time is under way for a message; one meanwhile makes it go on."""
        asked: list[Deferred[Any]] = []

        def notices(*args: Any) -> Deferred[Any]:
            asked.append(Deferred())
            return asked[-1]

        self.patch(self.spool, "notices", notices)
        first, second = self.notifier.tell(5), self.notifier.tell(5)
        self.assertEqual(self.successResultOf(second), [])
        self.assertEqual(len(asked), 1)
        asked[0].callback([])
        self.assertEqual(len(asked), 2)
        self.assertNoResult(first)
        asked[1].callback([])
        self.assertEqual(self.successResultOf(first), [])
        self.assertEqual(len(asked), 2)

    def test_neverAboutThis(self) -> None:
        """No server on the way is to tell of a notice (RFC 5321 §4.5.5)."""
        recorded: list[Any] = []
        record = self.spool.record

        def recording(work: Any, dispositions: Any, messages: Any = ()) -> Any:
            recorded.extend(messages)
            return record(work, dispositions, messages)

        self.patch(self.spool, "record", recording)
        self.send(*makeAddressees("g@x.example"))
        ((_, _, (to,)),) = recorded
        self.assertEqual(to.recipient.notify, frozenset({"NEVER"}))

    def test_smaller(self) -> None:
        """
        A notice that is too large for its way goes with the header only, then
        without it; it is never dropped (D7).
        """
        too = Reply(552, "5.3.4", "message size exceeds fixed limit")
        for what in (b"x" * 800, b"X-Long"):
            self.setUp()
            self.fits(lambda data, what=what: what not in data, too)
            self.sendLarge()
            (notice,) = self.notices()
            self.assertIn(b"Action: failed", notice)
            self.assertIn(b"<g@x.example>", notice)
            self.assertNotIn(what, notice)
            self.assertEqual(email.message_from_bytes(notice).defects, [])
            self.assertEqual(self.left(), (0, 0))
        self.assertEqual(len(self.refused), 2)

    def test_sevenBit(self) -> None:
        """One of eight bits goes in seven where the way takes no others (D7)."""
        for enhanced in ("5.6.3", "5.6.1"):
            self.setUp()
            self.fits(bytes.isascii, Reply(554, enhanced, "no 8BITMIME"))
            self.sendLarge(b"\xe9")
            (notice,) = self.notices()
            self.assertIn(b"Action: failed", notice)
            self.assertIn(b"Subject: one", notice)
            self.assertEqual(self.box.kept[-1][0].parameters.body, "7BIT")

    def test_noneFits(self) -> None:
        """One that fits in no form is kept, and said; it is no loop."""
        self.fits(lambda data: False, Reply(552, "5.3.4", "too large"))
        with capturedLogs() as logged:
            self.sendLarge()
            self.assertEqual((self.notices(), self.left()), ([], (1, 1)))
            self.assertEqual(len(self.refused), 3)
            (line,) = self.untold(logged)
            self.assertIn("does not fit its way: kept (552 5.3.4 too large)", line)
        self.assertEqual([row.status for row in self.spool._ledger.all()], [STUCK])

    def test_otherRefusal(self) -> None:
        """A notice that is refused for another reason is the last one."""
        self.fits(lambda data: False, Reply(550, "5.1.1", "no such user"))
        self.sendLarge()
        self.assertEqual((len(self.refused), self.left()), (1, (0, 0)))

    def test_meant(self) -> None:
        """Where senders are not told and that is meant, nothing is kept; the log says so."""
        self.way = NOT_TOLD
        with capturedLogs() as logged:
            self.send(*makeAddressees("g@x.example"))
        (line,) = self.untold(logged)
        self.assertIn("<g@x.example> failed, and <sender@example.com> is not told", line)
        self.assertEqual((self.notices(), self.left()), ([], (0, 0)))

    def test_notForANotice(self) -> None:
        """A DSN that cannot be delivered is the last one (RFC 5321 §4.5.5)."""
        self.box.answers["s"] = GONE
        self.send(*makeAddressees("g@x.example"))
        self.assertEqual(self.left(), (0, 0))

    def test_never(self) -> None:
        """NOTIFY=NEVER: nobody is told (RFC 3461 §4.1)."""
        self.send(self.notify("g@x.example", "NEVER"))
        self.assertEqual((self.notices(), self.left()), ([], (0, 0)))

    def test_success(self) -> None:
        """NOTIFY=SUCCESS: delivered, relayed to a hop without DSN, or left to one that has it."""
        for action, told in (("delivered", True), ("relayed", True), ("passed", False)):
            self.box.kept.clear()
            self.box.answers["b"] = Delivered(Reply(250, "2.0.0", "ok"), "mx", action)
            self.send(self.notify("b@x.example", "SUCCESS"))
            found = [f"Action: {action}".encode() in notice for notice in self.notices()]
            self.assertEqual(found, [True] if told else [])

    def test_delayed(self) -> None:
        """A warning once, after the configured time; then a failure when it expires."""
        self.send(*makeAddressees("l@x.example"))
        self.clock.pump([60] * (4 * 60 - 1))
        self.assertEqual(self.notices(), [])
        self.clock.pump([60] * 3)
        (notice,) = self.notices()
        self.assertIn(b"Action: delayed", notice)
        self.clock.pump([300] * 12 * 21)
        self.assertEqual((len(self.notices()), self.left()), (2, (0, 0)))
        self.assertIn(b"Status: 4.4.7", self.notices()[1])
        self.assertIn(b"smtp; 451 4.2.0 later", self.notices()[1])

    def test_noDelay(self) -> None:
        """NOTIFY=FAILURE wants no warnings."""
        self.send(self.notify("l@x.example", "FAILURE"))
        self.clock.pump([300] * 12 * 25)
        (notice,) = self.notices()
        self.assertIn(b"Action: failed", notice)

    def test_untold(self) -> None:
        """What is given up is in the log, also where the sender is not told of it."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.send(self.notify("late@x.example", "NEVER"))
        self.clock.pump([60] * (25 * 60))
        untold = [formatEvent(one) for one in events if one.get("event") == "untold"]
        self.assertEqual(len(untold), 1)
        self.assertIn("to=<late@x.example> expired, and the sender is not told", untold[0])
        self.assertEqual((self.notices(), self.left()), ([], (0, 0)))

    def test_full(self) -> None:
        """RET=FULL sends all of it back, RET=HDRS the header; so does a large or binary message."""
        for ret, octets, kind, body in (
            ("FULL", 10, "message/rfc822", "8BITMIME"),
            ("HDRS", 10, "text/rfc822-headers", "7BIT"),
            (None, 10, "text/rfc822-headers", "7BIT"),
            ("FULL", 2000, "text/rfc822-headers", "7BIT"),
            # Line ends of its own would make the notice one that only BDAT can carry.
            ("FULL", 10, "text/rfc822-headers", "BINARYMIME"),
        ):
            self.box.kept.clear()
            message = makeMessage(b"Subject: x\r\n\r\n" + b"x" * octets + b"\r\n")
            d = self.spool.stage(
                makeEnvelope(ret=ret, body=body), message, makeAddressees("g@x.example")
            )
            self.scheduler.release(self.successResultOf(d))
            (notice,) = self.notices()
            parts = list(email.message_from_bytes(notice).walk())
            self.assertIn(kind, [part.get_content_type() for part in parts])

    def test_separated(self) -> None:
        """Text that nothing separated from the fields is text in what is sent back, too."""
        for content, text in (
            (b"hello: world\r\nthe text\r\n", "the text"),
            (b"only text\r\n", "only text"),
        ):
            self.box.kept.clear()
            d = self.spool.stage(
                makeEnvelope(ret="FULL"), makeMessage(content), makeAddressees("g@x.example")
            )
            self.scheduler.release(self.successResultOf(d))
            (notice,) = self.notices()
            *_, returned = email.message_from_bytes(notice).walk()
            self.assertEqual(returned.get_payload().strip(), text)
            self.assertNotIn(text, str(returned.items()))

    def test_requireTLS(self) -> None:
        """What was sent with REQUIRETLS does not come back as a whole (RFC 8689 §5)."""
        self.send(*makeAddressees("g@x.example"), ret="FULL", requireTLS=True)
        (notice,) = self.notices()
        parts = list(email.message_from_bytes(notice).walk())
        self.assertEqual(parts[-1].get_content_type(), "text/rfc822-headers")

    def test_noWay(self) -> None:
        """A sender who cannot be told: kept for the operator, and told when there is a way."""
        self.way = None
        self.send(*makeAddressees("g@x.example"))
        self.assertEqual((self.notices(), self.left()), ([], (1, 1)))

    def test_wayOfOurOwn(self) -> None:
        """The notice goes where mail for that address goes."""
        self.send(*makeAddressees("g@x.example"))
        self.assertEqual([str(sender) for sender in self.asked], ["sender@example.com"])

    def test_notRecorded(self) -> None:
        """A notice that cannot be stored is made again, and there is one at the end."""
        record, broken = self.spool.record, [True]

        def sometimes(work: Any, dispositions: Any, messages: Any = ()) -> Deferred[Any]:
            if messages and broken:
                return fail(SpoolError("full"))
            return record(work, dispositions, messages)

        self.spool.record = sometimes  # type: ignore[method-assign]
        self.send(*makeAddressees("g@x.example"))
        self.assertEqual((self.notices(), self.left()), ([], (1, 1)))
        broken.clear()
        self.clock.pump([10] * 40)
        self.assertEqual((len(self.notices()), self.left()), (1, (0, 0)))

    def complaints(self, error: Exception) -> list[str]:
        """
        What is said, at level error, where a notice cannot be recorded.
        """
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        record = self.spool.record

        def refuses(work: Any, dispositions: Any, messages: Any = ()) -> Deferred[Any]:
            return fail(error) if messages else record(work, dispositions, messages)

        self.spool.record = refuses  # type: ignore[method-assign]
        self.send(*makeAddressees("g@x.example"))
        return [
            formatEvent(event)
            for event in events
            if event.get("log_level") is LogLevel.error and "notice" in event["log_namespace"]
        ]

    def test_overtaken(self) -> None:
        """A recipient that was dealt with meanwhile is no error."""
        self.assertEqual(self.complaints(Overtaken("dealt with meanwhile")), [])

    def test_said(self) -> None:
        """What is one names the message as the log does."""
        (said,) = self.complaints(SpoolError("full"))
        self.assertRegex(said, r"^cannot tell senders about \w{13}: SpoolError: full$")

    def test_away(self) -> None:
        """That the database is away was said once, by what has lost it."""
        self.assertEqual(self.complaints(StoreAway("refused")), [])

    def test_stop(self) -> None:
        """Stopping waits for what is being told."""
        self.successResultOf(self.scheduler.stop())
        self.successResultOf(self.notifier.stop())
