"""
A mail server as an object of a program.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Delivered, Refuse
from deferrals.server import MailServer
from deferrals.spool.memory import MemorySpool
from tests.harness import Transport


@implementer(IEnvelopeStage)
class Lists:
    """
    Knows the recipients of one domain.
    """

    def __init__(self, verdict: Any) -> None:
        self.verdict = verdict

    async def judge(self, envelope: Any, recipient: Any) -> Any:
        return self.verdict if recipient.address.domain == "lists.test" else None


@implementer(IContentStage)
class Words:
    """
    One recipient refuses a word.
    """

    def cohort(self, recipient: Any) -> Any:
        return str(recipient)

    async def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        refuses = str(recipients[0]) == "kids@lists.test" and b"word" in message.open().read()
        return Refuse(Reply(550, "5.7.1", "not on this list")) if refuses else ACCEPT


@implementer(IDeliveryStage)
class Archive:
    """
    Remembers what was delivered.
    """

    def __init__(self) -> None:
        self.delivered: list[str] = []

    def destination(self, recipient: Any) -> str:
        return "archive"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        self.delivered += [str(one) for one in recipients]
        return {one: Delivered() for one in recipients}


class BrokenSpool(MemorySpool):
    """
    Cannot be opened.
    """

    def open(self) -> Any:
        return fail(SpoolError("in use by another process"))


@implementer(IStreamServerEndpoint)
class Taken:
    """
    A port that another process has.
    """

    def listen(self, protocolFactory: Any) -> Any:
        return fail(CannotListenError("127.0.0.1", 25, OSError("taken")))


class MailServerTests(SynchronousTestCase):
    """
    L{MailServer}, in memory.
    """

    def make(self, **changes: Any) -> MailServer:
        self.clock = Clock()
        self.archive = Archive()
        given: dict[str, Any] = {
            "hostname": "mx.test",
            "envelope": Lists(Defer()),
            "content": [Words()],
            "delivery": self.archive,
        }
        return MailServer(self.clock, **given | changes)

    def started(self, **changes: Any) -> MailServer:
        server = self.make(**changes)
        self.successResultOf(server.start())
        return server

    def talk(self, server: MailServer, *lines: str) -> list[str]:
        """
        What a client is told that says all this, a line at a time.
        """
        session = server.factory().buildProtocol(None)
        transport = Transport()
        session.makeConnection(transport)
        said = []
        for line in lines:
            session.dataReceived(line.encode() + b"\r\n")
            self.clock.advance(0)
            said += transport.value().decode().splitlines()
            transport.clear()
        return said

    def mail(self, server: MailServer, parameter: str, *recipients: str) -> list[str]:
        rcpts = [f"RCPT TO:<{one}>" for one in recipients]
        said = self.talk(
            server, "EHLO c", f"MAIL FROM:<a@b.test>{parameter}", *rcpts, "DATA", "", "word", "."
        )
        return [line[:3] for line in said if line[:4] != "250-"]

    def test_answers(self) -> None:
        """Each recipient has its own answer, and what is accepted is delivered."""
        server = self.started()
        codes = self.mail(server, " PRDR", "kids@lists.test", "men@lists.test")
        self.assertEqual(codes[-5:], ["354", "353", "550", "250", "250"])
        self.clock.advance(1)
        self.assertEqual(self.archive.delivered, ["men@lists.test"])

    def test_stranger(self) -> None:
        """A recipient that no stage lets in is refused."""
        said = self.talk(self.started(), "EHLO c", "MAIL FROM:<>", "RCPT TO:<a@else.test>")
        self.assertIn("550 5.7.1", said[-1])

    def test_wrong(self) -> None:
        """What cannot be is said at once: objects by TypeError, names by ValueError."""
        for error, changes in (
            (TypeError, {"envelope": object()}),
            (TypeError, {"content": [Archive()]}),
            (TypeError, {"delivery": Words()}),
            (TypeError, {"spool": 5}),
            (TypeError, {"checkers": [object()]}),
            (ValueError, {"envelope": []}),
            (ValueError, {"delivery": {}}),
            (ValueError, {"notices": "nowhere"}),
            (ValueError, {"quarantines": {"content": "nowhere"}}),
            (ValueError, {"quarantines": {"nothing": "delivery"}}),
            (ValueError, {"hostname": "no name"}),
        ):
            self.assertRaises(error, self.make, **changes)

    def test_listenerSettings(self) -> None:
        """Settings that ask for what the server does not have are refused."""
        server = self.make()
        for settings in (
            ListenerSettings(auth="required"),
            ListenerSettings(mixed=Mixed.FILE),
        ):
            self.assertRaises(ValueError, server.factory, settings)

    def test_twice(self) -> None:
        """It starts once, stops as often as one likes, and two in a process do not meet."""
        first, second = self.started(), self.started()
        self.assertRaises(RuntimeError, first.start)
        for _ in range(2):
            self.successResultOf(first.stop())
        self.assertEqual(self.mail(second, "", "men@lists.test")[-1], "250")

    def test_noSpool(self) -> None:
        """Without a spool it does not start, and the program is told."""
        server = self.make(spool=BrokenSpool(Clock()))
        self.failureResultOf(server.start(), SpoolError)
        self.successResultOf(server.stop())

    def test_noPort(self) -> None:
        """Without its port it does not start; as a service it raises."""
        server = self.make()
        server.listenOn(Taken())
        self.failureResultOf(server.start(), CannotListenError)
        server = self.make()
        server.listenOn(Taken())
        self.assertRaises(CannotListenError, server.privilegedStartService)

    def test_replace(self) -> None:
        """Other stages are for the next transaction; what cannot be changes nothing."""
        server = self.started()
        self.assertRaises(TypeError, server.replace, envelope=object())
        self.assertEqual(self.mail(server, "", "men@lists.test")[-1], "250")
        server.replace(envelope=Lists(Refuse(Reply(550, "5.1.1", "gone"))))
        said = self.talk(server, "EHLO c", "MAIL FROM:<>", "RCPT TO:<men@lists.test>")
        self.assertIn("550 5.1.1", said[-1])

    def test_connections(self) -> None:
        """The limits on connections are those of all listeners together."""
        server = self.started(settings=ListenerSettings(limits=Limits(connections=1)))
        self.talk(server, "NOOP")
        self.assertEqual(self.talk(server, "NOOP")[0][:3], "421")

    def test_route(self) -> None:
        """A verdict names policy and delivery where there are several of them."""
        both = {"one": Archive(), "two": Archive()}
        server = self.started(delivery=both)
        said = self.talk(server, "EHLO c", "MAIL FROM:<>", "RCPT TO:<men@lists.test>")
        self.assertIn("451", said[-1])

    def test_accept(self) -> None:
        """A recipient that is accepted in the envelope is not judged (S-2)."""
        server = self.started(envelope=Lists(Accept()))
        self.assertEqual(self.mail(server, "", "kids@lists.test")[-1], "250")
