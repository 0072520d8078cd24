"""
Help for testing stages and spools, shipped with the package.

The contract mixins hold what every implementation of an interface must do: mix
one into a C{SynchronousTestCase}, say how to make yours, and run it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IMessage,
    IServices,
    ISpool,
)
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee, Work
from deferrals.model.envelope import Client, Envelope, Parameters, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Delivered, Failed, Marks, Refuse, Retry, Route
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.status import Status

_numbers = itertools.count(1 << 20)


def makeMessage(content: bytes = b"Subject: test\r\n\r\nhello\r\n") -> Message:
    """
    @param content: octets with CRLF line ends.
    @return: an L{IMessage}.
    """
    digest = hashlib.sha256(content).digest()
    return Message(len(content), digest, content, None, content[:HEADER_OCTETS])


def makeEnvelope(sender: str = "sender@example.com", **parameters: Any) -> Envelope:
    """
    @param sender: the reverse path; empty for the null path.
    @param parameters: of L{Parameters}.
    """
    return Envelope(
        next(_numbers),
        1000000000.0,
        Client("192.0.2.1", 1025, "client.example.com", "ESMTP"),
        Mailbox.parse(sender) if sender else None,
        Parameters(**parameters),
        "test",
    )


def makeRecipient(address: str, policy: str = "strict", delivery: str = "box") -> Recipient:
    """
    @param address: without brackets.
    """
    return Recipient(Mailbox.parse(address), route=Route(policy, delivery))


def makeAddressees(*addresses: str) -> list[Addressee]:
    """
    One for each address, numbered.
    """
    return [Addressee(makeRecipient(address), seq=seq) for seq, address in enumerate(addresses)]


@implementer(IServices)
class FakeServices:
    """
    Services for a stage under test: time is a L{Clock}, threads are none.

    @param directory: for both directories.
    """

    hostname = "mx.example.net"
    nextHops: Any = None

    def __init__(self, directory: str = "", reactor: Any = None) -> None:
        self.reactor = Clock() if reactor is None else reactor
        self.stateDir = self.baseDir = directory
        self.status = Status()

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        """
        Runs it here and now.
        """
        return maybeDeferred(function, *args)

    def connect(self, endpoint: str) -> Any:
        """
        There is no network.
        """
        raise ValueError(endpoint)

    def resolver(self, servers: Any = ()) -> Any:
        """
        There is no DNS.
        """
        raise ValueError(servers)

    def listensOn(self, address: str, port: int) -> bool:
        """
        Nobody comes in.
        """
        return False


@implementer(IContentStage)
class FakeContent:
    """
    A content stage that decides when it is told to.

    @ivar asked: what it was asked: (addresses, Deferred), in order.
    @ivar verdicts: answers that are known beforehand, by address.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Deferred[Any]]] = []
        self.verdicts: dict[str, Any] = {}
        self.cohorts: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.late = False

    def cohort(self, recipient: Recipient) -> Any:
        """
        Its own for everybody, unless C{cohorts} says otherwise.
        """
        return self.cohorts.get(str(recipient), str(recipient))

    def judge(self, message: Any, envelope: Envelope, recipients: Sequence[Recipient]) -> Any:
        """
        See L{IContentStage.judge}.
        """
        addresses = [str(recipient) for recipient in recipients]
        d: Deferred[Any] = Deferred(lambda _: self.cancelled.extend(addresses))
        self.asked.append((addresses, d))
        if addresses[0] in self.verdicts and not self.late:
            self.decide(addresses[0], self.verdicts[addresses[0]])
        return d

    def decide(self, address: str, verdict: Any) -> None:
        """
        Answer for the cohort of C{address}: a verdict, or an exception.
        """
        for addresses, d in self.asked:
            if address in addresses and not d.called:
                if isinstance(verdict, Exception):
                    d.errback(verdict)
                else:
                    d.callback(verdict)

    def decideKnown(self) -> None:
        """
        Give the answers that were known beforehand, for what has been asked.
        """
        for address, verdict in self.verdicts.items():
            self.decide(address, verdict)


class EnvelopeStageContract:
    """
    What every L{IEnvelopeStage} does.
    """

    def makeStage(self) -> Any:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def test_providesInterface(self: Any) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IEnvelopeStage, self.makeStage()))


class ContentStageContract:
    """
    What every L{IContentStage} does.
    """

    def makeStage(self) -> Any:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def test_providesInterface(self: Any) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IContentStage, self.makeStage()))

    def test_cohortIsHashable(self: Any) -> None:
        """A cohort's key is hashable, and the same each time (design, section 5)."""
        stage, recipient = self.makeStage(), makeRecipient("somebody@example.net")
        self.assertEqual(hash(stage.cohort(recipient)), hash(stage.cohort(recipient)))
        self.assertEqual(stage.cohort(recipient), stage.cohort(recipient))

    def test_oneVerdict(self: Any) -> None:
        """An ordinary message gets one verdict for the cohort."""
        stage, recipient = self.makeStage(), makeRecipient("somebody@example.net")
        d = maybeDeferred(stage.judge, makeMessage(), makeEnvelope(), [recipient])
        self.assertIsInstance(self.successResultOf(d), Accept | Refuse)


class DeliveryStageContract:
    """
    What every L{IDeliveryStage} does.
    """

    def makeStage(self) -> Any:
        """
        @return: the stage to be tested.
        """
        raise NotImplementedError

    def test_providesInterface(self: Any) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IDeliveryStage, self.makeStage()))

    def test_destination(self: Any) -> None:
        """It says where a recipient's copy goes next."""
        destination = self.makeStage().destination(makeRecipient("a@example.net"))
        self.assertIsInstance(destination, str)
        self.assertTrue(destination)

    def test_outcomeForEach(self: Any) -> None:
        """Every recipient gets an outcome."""
        stage = self.makeStage()
        addressees = makeAddressees("a@example.net", "b@example.net")
        d = maybeDeferred(stage.deliver, makeMessage(), makeEnvelope(), addressees)
        outcomes = self.successResultOf(d)
        self.assertEqual(set(outcomes), set(addressees))
        for outcome in outcomes.values():
            self.assertIsInstance(outcome, Delivered | Failed | Retry)

    def test_repeated(self: Any) -> None:
        """A delivery that is repeated after a crash has an outcome, too."""
        stage, message, envelope = self.makeStage(), makeMessage(), makeEnvelope()
        addressees = makeAddressees("a@example.net")
        for _ in range(2):
            d = maybeDeferred(stage.deliver, message, envelope, addressees)
            self.assertEqual(set(self.successResultOf(d)), set(addressees))


class SpoolContract:
    """
    What every L{ISpool} does.
    """

    clock: Clock

    def makeSpool(self) -> Any:
        """
        Called once per test; sets C{self.clock}.

        @return: the spool to be tested, open.
        """
        raise NotImplementedError

    def reopen(self, spool: Any) -> Any:
        """
        @return: the same spool, after its process has died.
        """
        raise NotImplementedError

    def resultOf(self: Any, d: Any) -> Any:
        """
        Wait for a Deferred.
        """
        return self.successResultOf(d)

    def body(self: Any, spool: Any, envelope: Envelope, *chunks: bytes) -> Any:
        """
        @return: a message of the spool.
        """
        writer = spool.newBody(envelope.transaction)
        for chunk in chunks:
            writer.write(chunk)
        return self.resultOf(writer.finish())

    def staged(self: Any, spool: Any, *addresses: str) -> Work:
        """
        @return: staged work for these addresses.
        """
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"Subject: x\r\n", b"\r\nhello\r\n")
        work: Work = self.resultOf(spool.stage(envelope, message, makeAddressees(*addresses)))
        return work

    def test_providesInterface(self: Any) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(ISpool, self.makeSpool()))

    def test_message(self: Any) -> None:
        """What was written is what the message has."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        content = b"Subject: a\r\n folded\r\nX: \xff\r\n\r\nbody\r\n"
        message = self.body(spool, envelope, content[:9], content[9:])
        self.assertTrue(verifyObject(IMessage, message))
        self.assertEqual(message.size, len(content))
        self.assertEqual(message.digest, hashlib.sha256(content).digest())
        self.assertEqual(message.fields(), [("Subject", "a folded"), ("X", "\ufffd")])
        with message.open() as file:
            self.assertEqual(file.read(), content)

    def test_stagedIsNotClaimed(self: Any) -> None:
        """Nobody delivers what is not released (D-20)."""
        spool = self.makeSpool()
        self.staged(spool, "a@example.net")
        self.clock.advance(10000)
        self.assertEqual(self.resultOf(spool.claim(10)), [])

    def test_abandoned(self: Any) -> None:
        """An abandoned message is gone (D-15)."""
        spool = self.makeSpool()
        spool.abandon(self.staged(spool, "a@example.net"))
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))
        spool = self.reopen(spool)
        self.assertEqual(self.resultOf(spool.claim(10)), [])

    def test_keptWork(self: Any) -> None:
        """Released work that its receiver delivers itself is leased to it."""
        spool = self.makeSpool()
        spool.release(self.staged(spool, "a@example.net"), True)
        self.assertEqual(self.resultOf(spool.claim(10)), [])

    def test_claimed(self: Any) -> None:
        """Released work is claimed once, complete."""
        spool = self.makeSpool()
        envelope = makeEnvelope("", smtputf8=True, ret="HDRS", envid="e1")
        message = self.body(spool, envelope, b"\r\nhello\r\n")
        marks = Marks((("X-Score", "5"),), ("X-Old",), "[spam] ", True)
        recipient = Recipient(
            Mailbox.parse("b@example.net"), frozenset({"NEVER"}), "rfc822;b", Route("strict", "box")
        )
        addressees = [*makeAddressees("a@example.net"), Addressee(recipient, marks, 1)]
        work = self.resultOf(spool.stage(envelope, message, addressees))
        spool.release(work, False)
        (claimed,) = self.resultOf(spool.claim(10))
        self.assertEqual(claimed.envelope, envelope)
        self.assertEqual(list(claimed.addressees), addressees)
        with claimed.message.open() as file:
            self.assertEqual(file.read(), b"\r\nhello\r\n")
        self.assertEqual(self.resultOf(spool.claim(10)), [])

    def test_leaseRunsOut(self: Any) -> None:
        """A dead worker's work is due again when its lease has run out."""
        spool = self.makeSpool()
        spool.release(self.staged(spool, "a@example.net"), True)
        self.clock.advance(301)
        self.assertEqual(len(self.resultOf(spool.claim(10))), 1)

    def test_recorded(self: Any) -> None:
        """Who is delivered leaves; who is to be retried is due at that time."""
        spool = self.makeSpool()
        work = self.staged(spool, "a@example.net", "b@example.net")
        spool.release(work, True)
        one, two = work.addressees
        later = self.clock.seconds() + 60
        outcomes = {one: Delivered(), two: Retry(Reply(451, "4.3.0", "later"))}
        self.resultOf(spool.record(work, outcomes, later))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.assertEqual(self.resultOf(spool.claim(10)), [])
        self.clock.advance(61)
        (again,) = self.resultOf(spool.claim(10))
        self.assertEqual([(str(a), a.attempts) for a in again.addressees], [("b@example.net", 1)])
        self.resultOf(spool.record(again, {again.addressees[0]: Delivered()}, later))
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))

    def test_restart(self: Any) -> None:
        """After a crash, what was staged is released: a duplicate is the lesser evil (RFC 1047)."""
        spool = self.makeSpool()
        self.staged(spool, "a@example.net")
        spool.release(self.staged(spool, "b@example.net"), True)
        spool = self.reopen(spool)
        claimed = self.resultOf(spool.claim(10))
        self.assertEqual(
            sorted(str(work.addressees[0]) for work in claimed), ["a@example.net", "b@example.net"]
        )
