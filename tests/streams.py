"""
Scanners that are asked over a connection, without any of them.
"""

from __future__ import annotations

import os
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import Recipient
from deferrals.model.verdict import ACCEPT, Accept, Marks, Refuse
from deferrals.stages.remote import FAILURES
from deferrals.testing import (
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)


def person(name: str, policy: str = "strict", **overrides: float | str) -> Recipient:
    """
    A recipient with settings of its own.
    """
    recipient = makeRecipient(f"{name}@example.net", policy)
    assert recipient.route is not None
    own = tuple(sorted((key.replace("__", "."), value) for key, value in overrides.items()))
    return recipient.routed(attrs.evolve(recipient.route, overrides=own))


class Wire(StringTransport):
    """
    A connection to a scanner.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.producer = None

    def drain(self) -> bytes:
        """
        Take what is sent, as fast as it comes.
        """
        sent = b""
        while self.producer is not None:
            sent += self.value()
            self.clear()
            self.producer.resumeProducing()
        return sent + self.value()


class Endpoint:
    """
    Where a scanner listens.
    """

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.protocols: list[Any] = []
        self.refuses = False
        self.answer: bytes | None = None
        self.requests: list[bytes] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refuses:
            return fail(ConnectionRefusedError())
        protocol = factory.buildProtocol(None)
        wire = Wire()
        self.wires.append(wire)
        self.protocols.append(protocol)
        protocol.makeConnection(wire)
        if self.answer is not None:
            self.requests.append(wire.drain())
            protocol.dataReceived(self.answer)
        return succeed(protocol)


class StreamCase(SynchronousTestCase):
    """
    A stage that speaks over a connection of its own.
    """

    kind: Any
    settings: Any
    good = b""

    def setUp(self) -> None:
        self.endpoint = Endpoint()
        self.endpoint.answer = self.good
        self.services = FakeServices()
        self.services.connect = lambda text: self.endpoint  # type: ignore[method-assign]

    def makeStage(self, **settings: Any) -> Any:
        return self.kind(self.settings(socket="tcp:127.0.0.1:1", **settings), self.services)

    def ask(self, stage: Any, *recipients: Recipient, message: Any = None) -> Any:
        return stage.judge(
            message or makeMessage(), makeEnvelope(), recipients or (person("somebody"),)
        )

    def verdict(self, stage: Any, *recipients: Recipient, message: Any = None) -> Any:
        answer = self.ask(stage, *recipients, message=message)
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer


class FailureTests:
    """
    What the failure of a scanner means, for C{clamav} and C{spamassassin}.
    """

    def test_onError(self: Any) -> None:
        """A scanner that refuses connections, or talks nonsense: on_error counts."""
        for refuses, answer in ((True, None), (False, b"nonsense\r\n\r\n\0")):
            self.endpoint.refuses, self.endpoint.answer = refuses, answer
            if answer is not None:
                answer = self.endpoint.answer
            for onError, wanted in (
                ("refuse-temporarily", 451),
                ("skip", ACCEPT),
                (
                    "accept",
                    Accept(Marks((("Deferrals-Unscanned", self.kindName),))),
                ),
            ):
                d = self.ask(self.makeStage(on_error=onError))
                if self.endpoint.protocols:
                    self.endpoint.protocols[-1].connectionLost(Failure(ConnectionDone()))
                verdict = self.successResultOf(d)
                if isinstance(verdict, Refuse):
                    verdict = verdict.reply.code
                self.assertEqual(verdict, wanted)

    def test_lost(self: Any) -> None:
        """A connection that is lost before the answer is a failure."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage())
        self.endpoint.protocols[0].connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(d).reply.code, 451)

    def test_slow(self: Any) -> None:
        """A scanner that says nothing is left when its time is up."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage(timeout=7))
        self.services.reactor.advance(6.9)
        self.assertNoResult(d)
        self.services.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(d).reply.code, 451)
        self.assertTrue(self.endpoint.wires[0].aborted)

    def test_breaker(self: Any) -> None:
        """A dead scanner is soon not asked any more, for all policies that use it."""
        self.endpoint.refuses = True
        for _ in range(FAILURES):
            self.verdict(self.makeStage())
        self.endpoint.refuses = False
        stage = self.makeStage(on_error="skip")
        self.assertEqual(self.verdict(stage), ACCEPT)
        self.assertEqual(self.endpoint.wires, [])
        self.services.reactor.advance(60)
        self.verdict(stage)
        self.assertEqual(len(self.endpoint.wires), 1)

    def test_cancel(self: Any) -> None:
        """It may be cancelled; the connection is closed then."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage())
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertTrue(self.endpoint.wires[0].aborted)

    def test_tooLong(self: Any) -> None:
        """An answer without an end is none."""
        self.endpoint.answer = b"x" * 100_000
        self.assertEqual(self.verdict(self.makeStage()).reply.code, 451)

    def test_unreadable(self: Any) -> None:
        """A message that cannot be read is a failure, not a hanging connection."""
        message = makeMessage()
        self.patch(message, "open", lambda: os.open("/nonexistent", 0))
        self.endpoint.answer = b""
        verdict = self.verdict(self.makeStage(), message=message)
        self.assertEqual(verdict.reply.code, 451)

    def test_flowControl(self: Any) -> None:
        """A large message is sent piece by piece, as the scanner takes it."""
        self.endpoint.answer = None
        message = makeMessage(b"x" * 500_000)
        d = self.ask(self.makeStage(), message=message)
        (wire,) = self.endpoint.wires
        self.assertLess(len(wire.value()), 70_000)
        most = 0
        while wire.producer is not None:
            most = max(most, len(wire.value()))
            wire.clear()
            wire.producer.resumeProducing()
        self.assertLess(most, 70_000)
        d.cancel()
        self.failureResultOf(d, CancelledError)
