"""
A delivery written for twisted.mail, unchanged, behind the server.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.mail.interfaces import IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP
from twisted.mail.smtp import SMTPBadRcpt, SMTPBadSender, SMTPServerError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.adapters import LINES_AT_ONCE, MessageDelivery
from deferrals.testing import MemoryServer


@implementer(IMessageSMTP)
class Message:
    """
    A message as twisted.mail's examples have it.
    """

    def __init__(self, end: Any) -> None:
        self.lines: list[bytes] = []
        self.end = end
        self.isWhole = self.isLost = False

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)

    def eomReceived(self) -> Any:
        self.isWhole = True
        return self.end

    def connectionLost(self) -> None:
        self.isLost = True


@implementer(IMessageDelivery)
class Delivery:
    """
    Takes mail for C{lists.test}, and ends each message as it is told.
    """

    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        self.messages: dict[str, list[Message]] = {}
        self.sender: Any = None

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        self.sender = (helo, bytes(origin))
        if bytes(origin).startswith(b"bad@"):
            raise SMTPBadSender(origin)
        return succeed(origin)

    def validateTo(self, user: Any) -> Any:
        if user.dest.domain != b"lists.test":
            raise SMTPBadRcpt(user)
        name = user.dest.local.decode()

        def message() -> Message:
            made = Message(self.ends.get(name, succeed(None)))
            self.messages.setdefault(name, []).append(made)
            return made

        return message

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: for " + bytes(recipients[0].dest)


@implementer(IMessageDeliveryFactory)
class Factory:
    """
    One delivery for each transaction.
    """

    def __init__(self) -> None:
        self.made: list[Delivery] = []

    def getMessageDelivery(self) -> Delivery:
        self.made.append(Delivery())
        return self.made[-1]


class AdapterTests(SynchronousTestCase):
    """
    L{MessageDelivery}.
    """

    def setUp(self) -> None:
        self.delivery = Delivery()

    def server(self, delivery: Any = None) -> MemoryServer:
        adapter = MessageDelivery(delivery or self.delivery)
        return MemoryServer(envelope=adapter, content=adapter, delivery=adapter)

    def mail(self, *recipients: str, server: Any = None) -> list[str]:
        """
        The codes behind EHLO.
        """
        session = (server or self.server()).session()
        session.say("EHLO c")
        rcpts = [f"RCPT TO:<{one}>" for one in recipients]
        said = session.say("MAIL FROM:<a@b.test> PRDR", *rcpts, "DATA", "Subject: x", "", "hi", ".")
        return [line[:3] for line in said]

    def test_each(self) -> None:
        """One recipient's message fails: the other's does not (stock: 550 for both)."""
        self.delivery.ends["kids"] = fail(SMTPServerError(554, "not here"))
        codes = self.mail("kids@lists.test", "men@lists.test")
        self.assertEqual(codes, ["250", "250", "250", "354", "353", "550", "250", "250"])
        (message,) = self.delivery.messages["men"]
        self.assertEqual(
            message.lines, [b"Received: for men@lists.test", b"Subject: x", b"", b"hi"]
        )
        self.assertEqual(self.delivery.sender, ((b"c", b"192.0.2.1"), b"a@b.test"))

    def test_envelope(self) -> None:
        """A recipient or a sender that the delivery does not want is refused at once."""
        session = self.server().session()
        said = session.say("EHLO c", "MAIL FROM:<bad@b.test>")
        self.assertEqual(said[-1][:3], "550")
        said = session.say("MAIL FROM:<>", "RCPT TO:<a@else.test>")
        self.assertEqual([line[:3] for line in said], ["250", "550"])

    def test_temporary(self) -> None:
        """A 4xx stays one; any other failure, and a code that refuses nobody, is one, too."""
        for end in (SMTPServerError(452, "full"), RuntimeError("x"), SMTPServerError(250, b"?")):
            self.setUp()
            self.delivery.ends["men"] = fail(end)
            self.assertEqual(self.mail("men@lists.test")[-1][0], "4", end)
        self.flushLoggedErrors()

    def test_twice(self) -> None:
        """A recipient that is named twice has two messages, as twisted.mail has it."""
        self.assertEqual(self.mail("men@lists.test", "men@lists.test")[-1], "250")
        self.assertEqual(len(self.delivery.messages["men"]), 2)

    def test_factory(self) -> None:
        """A factory is asked once for each transaction."""
        factory = Factory()
        server = self.server(factory)
        for _ in range(2):
            self.assertEqual(self.mail("men@lists.test", server=server)[-1], "250")
        self.assertEqual([list(one.messages) for one in factory.made], [["men"], ["men"]])

    def test_late(self) -> None:
        """The sender waits for the delivery; one that never ends is 451 at the deadline."""
        self.delivery.ends["men"] = Deferred()
        server = self.server()
        session = server.session()
        session.say("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<men@lists.test>", "DATA", "")
        self.assertEqual(session.say("."), [])
        server.advance(51)
        self.assertEqual(session.heard()[0][:3], "451")

    def test_large(self) -> None:
        """A large message is fed in pieces where there is a clock."""
        clock = Clock()
        adapter = MessageDelivery(self.delivery, clock)
        server = MemoryServer(envelope=adapter, content=adapter, delivery=adapter)
        session = server.session()
        session.say("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<men@lists.test>", "DATA")
        self.assertEqual(session.say(*["x"] * (LINES_AT_ONCE + 5), "."), [])
        clock.advance(0)
        server.advance()
        self.assertEqual(session.heard()[-1][:3], "250")
        # Received, and the empty line that separates it from the text.
        self.assertEqual(len(self.delivery.messages["men"][0].lines), LINES_AT_ONCE + 7)

    def test_cutShort(self) -> None:
        """A message that raises on the way is told that it does not come to its end."""
        server = self.server()

        def raises(line: bytes) -> None:
            raise SMTPServerError(552, "too much")

        made: list[Message] = []

        def opener() -> Message:
            made.append(Message(succeed(None)))
            made[0].lineReceived = raises  # type: ignore[method-assign]
            return made[0]

        self.delivery.validateTo = lambda user: opener  # type: ignore[method-assign]
        self.assertEqual(self.mail("men@lists.test", server=server)[-1], "552")
        self.assertTrue(made[0].isLost)

    def test_none(self) -> None:
        """What is neither a delivery nor a factory is refused."""
        self.assertRaises(TypeError, MessageDelivery, object())
