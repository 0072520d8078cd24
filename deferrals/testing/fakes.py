"""
What decides, delivers, stores and connects as a test tells it to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime, IResolver, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from deferrals.errors import HopError
from deferrals.interfaces import (
    IBinaryDelivery,
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    ILimits,
    IMessage,
    INextHops,
    INotes,
    ISealer,
    IServices,
    ISigner,
    ITable,
    Work,
)
from deferrals.model.address import Mailbox
from deferrals.model.answers import Answer
from deferrals.model.authentication import Authentication
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Heard, Hop, Outgoing, Sent
from deferrals.model.reply import R250_RECIPIENT, R250_SENDER, Reply
from deferrals.model.status import Status
from deferrals.model.verdict import (
    ContentVerdict,
    Defer,
    Delivered,
    EnvelopeVerdict,
    Outcome,
)
from deferrals.server.admissions import Admissions
from deferrals.server.authentication import Authentications
from deferrals.server.dnsnames import DNSNames
from deferrals.server.limits import SharedLimits
from deferrals.server.notes import Notes
from deferrals.server.proving import Prover
from deferrals.server.sealing import Sealer
from deferrals.server.signing import Signer
from deferrals.server.spf import SPF
from deferrals.server.tables import Tables
from deferrals.spool.memory import MemorySpool
from deferrals.stages.foreign import view

_T = TypeVar("_T")
_P = ParamSpec("_P")


class _Answers(Generic[_T]):
    """
    Answers that a test gives, by address: at once, or when it says so.

    @ivar asked: what was asked, in order: addresses, and the Deferred that they
        wait for.
    @ivar verdicts: answers that are known beforehand, by address: values, or
        exceptions.
    @ivar late: whether also those wait for L{decideKnown}.
    @ivar cancelled: the addresses whose answers are not waited for any longer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Deferred[_T]]] = []
        self.verdicts: dict[str, _T | Exception] = {}
        self.cancelled: list[str] = []
        self.late = False

    def _ask(self, addresses: list[str]) -> Deferred[_T]:
        d: Deferred[_T] = Deferred(lambda _: self.cancelled.extend(addresses))
        self.asked.append((addresses, d))
        if addresses[0] in self.verdicts and not self.late:
            self.decide(addresses[0], self.verdicts[addresses[0]])
        return d

    def decide(self, address: str, verdict: _T | Exception) -> None:
        """
        Answer whatever waits for C{address}: a verdict, or an exception.
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


@implementer(IEnvelopeStage)
class FakeEnvelope(_Answers[EnvelopeVerdict | None]):
    """
    An envelope stage that says what it is told.

    @ivar default: what it says of all others; with C{None} it has no opinion.
    @ivar waiting: the addresses whose answer waits for C{decide}.
    @ivar judged: whom it was asked about, each with the envelope.
    """

    def __init__(self, default: EnvelopeVerdict | None = Defer()) -> None:
        super().__init__()
        self.default = default
        self.waiting: set[str] = set()
        self.judged: list[tuple[Envelope, Recipient]] = []

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict | Deferred[EnvelopeVerdict | None] | None:
        self.judged.append((envelope, recipient))
        address = str(recipient)
        if address in self.verdicts or address in self.waiting:
            return self._ask([address])
        return self.default


@implementer(IContentStage)
class FakeContent(_Answers[ContentVerdict]):
    """
    A content stage that decides when it is told to.

    @ivar cohorts: keys by address; any other recipient is a cohort of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cohorts: dict[str, Hashable] = {}

    def cohort(self, recipient: Recipient) -> Hashable:
        return self.cohorts.get(str(recipient), str(recipient))

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        return self._ask([str(recipient) for recipient in recipients])


@implementer(IBinaryDelivery)
class FakeDelivery:
    """
    A delivery that takes any octets, and remembers what it got.

    @ivar delivered: each recipient that has the message, with the envelope and
        the octets, in order.
    @ivar outcomes: by address; any other recipient has the message.
    """

    def __init__(self, outcomes: Mapping[str, Outcome] | None = None) -> None:
        self.outcomes = dict(outcomes or {})
        self.delivered: list[tuple[Envelope, Addressee, bytes]] = []

    def destination(self, recipient: Recipient) -> str:
        return "test"

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> dict[Addressee, Outcome]:
        with message.open() as file:
            content = file.read()
        found = {one: self.outcomes.get(str(one), Delivered()) for one in recipients}
        for one, outcome in found.items():
            if isinstance(outcome, Delivered):
                self.delivered.append((envelope, one, content))
        return found


class FakeSpool(MemorySpool):
    """
    A spool in memory whose disk is full, or slow.

    @param reactor: tells the time; by default a clock of its own.
    @ivar full: whether storing fails.
    @ivar slow: whether storing waits for L{go}.
    @ivar abandoned: the messages that stayed their senders'.
    """

    def __init__(
        self, reactor: IReactorTime | None = None, *, full: bool = False, slow: bool = False
    ) -> None:
        super().__init__(Clock() if reactor is None else reactor)
        self.full = full
        self.slow = slow
        self.abandoned: list[Work] = []
        self._held: list[tuple[Deferred[Work], Deferred[Work]]] = []

    def stage(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        result = super().stage(envelope, message, addressees)
        if not self.slow:
            return result
        held: Deferred[Work] = Deferred()
        self._held.append((held, result))
        return held

    def abandon(self, work: Work) -> None:
        self.abandoned.append(work)
        super().abandon(work)

    def go(self) -> None:
        """
        What waits is stored now.
        """
        held, self._held = self._held, []
        for d, result in held:
            result.addCallbacks(d.callback, d.errback)


@implementer(INextHops)
class FakeNextHops:
    """
    Other servers, without a network: they take everything, unless told otherwise.

    @ivar replies: what a recipient is answered, by address.
    @ivar errors: by the name of the hop: why there is no session with it.
    @ivar sent: what was sent where, each with the octets of the message.
    @ivar asked: what was asked: the hop, the sender and the recipient.
    """

    def __init__(
        self,
        replies: Mapping[str, Reply] | None = None,
        errors: Mapping[str, HopError] | None = None,
    ) -> None:
        self.replies = dict(replies or {})
        self.errors = dict(errors or {})
        self.sent: list[tuple[Hop, Outgoing, bytes]] = []
        self.asked: list[tuple[Hop, str, str]] = []

    def send(self, hop: Hop, outgoing: Outgoing, heard: Heard | None = None) -> Deferred[Sent]:
        if hop.name in self.errors:
            return fail(self.errors[hop.name])
        self.sent.append((hop, outgoing, b"".join(outgoing.chunks())))
        answers = (Answer(one, self._reply(one), "recipient") for one in outgoing.recipients)
        return succeed(Sent(tuple(answers), hop.host))

    def offered(self, hop: Hop) -> Mapping[str, Sequence[str]] | None:
        return None

    def ask(self, hop: Hop, sender: str, recipient: str) -> Deferred[tuple[Reply, Reply]]:
        if hop.name in self.errors:
            return fail(self.errors[hop.name])
        self.asked.append((hop, sender, recipient))
        return succeed((R250_SENDER, self._reply(recipient)))

    def _reply(self, address: str) -> Reply:
        return attrs.evolve(self.replies.get(address, R250_RECIPIENT), byServer=True)


@implementer(IServices)
class FakeServices:
    """
    Services for a stage under test: time is a C{Clock}, threads are none.

    @param directory: for both directories.
    @param reactor: instead of a clock.
    @param resolver: answers for all DNS servers; without one there is no DNS.
    @param endpoints: by their descriptions; what is not there is no endpoint.
    @param nextHops: by default servers that take everything.
    @param deliveries: by name.
    @ivar reversePaths: by sender, how its mail is sent on: by default as its own.
    @param tables: by their names.
    """

    hostname = "mx.example.net"
    reactor: Any  # a clock is not all that the real one is

    def __init__(
        self,
        directory: str = "",
        reactor: IReactorTime | None = None,
        *,
        resolver: IResolver | None = None,
        endpoints: Mapping[str, IStreamClientEndpoint] | None = None,
        nextHops: INextHops | None = None,
        deliveries: Mapping[str, IDeliveryStage] | None = None,
        tables: Mapping[str, ITable] | None = None,
    ) -> None:
        self.reactor = Clock() if reactor is None else reactor
        self.stateDir = self.baseDir = directory
        self.status = Status()
        self.nextHops: INextHops = FakeNextHops() if nextHops is None else nextHops
        self.notes: INotes = Notes(self.reactor)
        self.limits: ILimits = SharedLimits(self.reactor)
        self.reversePaths: dict[str, Mailbox] = {}
        self._deliveries = dict(deliveries or {})
        self.signer: ISigner = Signer(self.inThread, self.hostname, self.status)
        names = DNSNames(self.resolver, self.reactor)
        spf = SPF(names, self.reactor)
        self.authentications = Authentications(self.inThread, names, spf, self.reactor, self.status)
        prover = Prover(spf, self.authentications.ofMessage)
        self.admissions = Admissions(self.notes, self.reactor, prover, self.status)
        self.sealer: ISealer = Sealer(
            self.inThread, self.authentications, self.hostname, self.status
        )
        self.tables = Tables()
        self.tables.now = dict(tables or {})
        self._resolver = resolver
        self._endpoints = dict(endpoints or {})
        self._common: dict[Hashable, Any] = {}

    def common(self, key: Hashable, build: Callable[[], _T]) -> _T:
        if key not in self._common:
            self._common[key] = build()
        found: _T = self._common[key]
        return found

    def inThread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        Runs it here and now.
        """
        return maybeDeferred(function, *args, **kwargs)

    def connect(self, endpoint: str) -> IStreamClientEndpoint:
        if endpoint not in self._endpoints:
            raise ValueError(f"no such endpoint in this test: {endpoint}")
        return self._endpoints[endpoint]

    def resolver(self, servers: tuple[tuple[str, int], ...] = ()) -> IResolver:
        if self._resolver is None:
            raise ValueError("no DNS in this test")
        return self._resolver

    def table(self, name: str) -> ITable:
        return self.tables.named(name)

    def view(self, message: IMessage, envelope: Envelope) -> IMessage:
        return view(message, envelope, self.hostname)

    def authentication(self, message: IMessage, envelope: Envelope) -> Deferred[Authentication]:
        return self.authentications.ofMessage(message, envelope)

    def delivery(self, name: str) -> IDeliveryStage | None:
        return self._deliveries.get(name)

    def reversePath(self, sender: Mailbox) -> Mailbox:
        return self.reversePaths.get(str(sender), sender)

    def listensOn(self, address: str, port: int) -> bool:
        """
        No client comes in.
        """
        return False
