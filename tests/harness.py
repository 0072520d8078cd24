"""
A session with everything around it, without sockets and with a clock that
stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.auth.authenticator import Authenticator
from deferrals.auth.throttle import Throttle
from deferrals.interfaces import IEnvelopeStage, IMessage, Work
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.ids import TransactionIds
from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.verdict import NOWHERE, Accept, Defer, Expand, Refuse, Route
from deferrals.server.limits import SharedLimits
from deferrals.server.notes import Notes
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.mixed import MixedPolicy
from deferrals.smtp.server.session import Session
from deferrals.smtp.server.settings import Backend
from deferrals.spool.memory import MemorySpool
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.envelope.submission import Submission, SubmissionSettings
from deferrals.testing import FakeContent, FakeServices


@implementer(IEnvelopeStage)
class FakeEnvelope:
    """
    C{postmaster} accepts, C{old-user} refuses, everybody else is deferred;
    unless C{verdicts} says otherwise.  C{"pending"} waits for L{decide}.
    """

    def __init__(self) -> None:
        self.verdicts: dict[str, Any] = {}
        self.pending: dict[str, Deferred[Any]] = {}
        self.cancelled: list[str] = []

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Any:
        verdict = self.verdicts.get(str(recipient), recipient.address.local)
        if verdict == "pending":
            d: Deferred[Any] = Deferred(lambda _: self.cancelled.append(str(recipient)))
            self.pending[str(recipient)] = d
            return d
        return self.verdict(verdict)

    def verdict(self, verdict: Any) -> Any:
        if isinstance(verdict, Exception):
            raise verdict
        if verdict in ("postmaster", "accept"):
            return Accept(route=Route("open", "box"))
        if verdict == "old-user":
            return Refuse(Reply(550, "5.1.1", "gone"))
        if isinstance(verdict, Reply):
            return Refuse(verdict)
        if isinstance(verdict, Expand):
            return verdict
        if verdict == NOWHERE:
            return Accept(route=Route("open", "box"), nowhere=True)
        return Defer(Route("strict", "box"))

    def decide(self, address: str, verdict: Any) -> None:
        self.pending.pop(address).callback(self.verdict(verdict))


class SlowSpool(MemorySpool):
    """
    A spool that can be told to wait.

    @ivar held: Deferreds of C{stage} that wait for L{go}.
    """

    slow = False

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.held: list[tuple[Deferred[Any], Deferred[Any]]] = []
        self.abandoned: list[Work] = []

    def stage(self, *args: Any) -> Deferred[Any]:
        result = super().stage(*args)
        if not self.slow:
            return result
        d: Deferred[Any] = Deferred()
        self.held.append((d, result))
        return d

    def abandon(self, work: Work) -> None:
        self.abandoned.append(work)
        super().abandon(work)

    def go(self) -> None:
        held, self.held = self.held, []
        for d, result in held:
            result.addCallbacks(d.callback, d.errback)


class Transport(StringTransport):
    """
    Remembers that it was closed; ends a connection when told to.

    @param host: the client's address.
    """

    aborted = False
    protocol: Any = None

    def __init__(self, host: str = "192.0.2.1") -> None:
        kind = IPv6Address if ":" in host else IPv4Address
        super().__init__(peerAddress=kind("TCP", host, 54321))

    def abortConnection(self) -> None:
        self.aborted = self.disconnecting = True


def connectionLimits(**limits: Any) -> ConnectionLimits:
    """
    Those of one process.
    """
    return ConnectionLimits(SharedLimits(Clock()), Limits(**limits))


def gate(**users: bytes) -> Authenticator:
    """
    Who knows one of these passwords may log in.
    """
    return Authenticator([InMemoryUsernamePasswordDatabaseDontUse(**users)])


def proved(envelope: Envelope) -> str | None:
    """
    SPF passes for those that are called so.
    """
    sender = envelope.sender
    if sender is not None and sender.local.startswith("aligned"):
        return sender.domain
    return None


class Bench:
    """
    A session on the bench.

    @ivar released: whom the session has released, in order.
    @ivar undeliverable: how the message is refused that a recipient's delivery can never
        carry, by address.
    """

    def __init__(
        self,
        limits: dict[str, Any] | None = None,
        backend: dict[str, Any] | None = None,
        transport: Transport | None = None,
        notes: Notes | None = None,
        submission: SubmissionSettings | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        self.clock = Clock() if clock is None else clock
        self.clock.advance(1000000000 if clock is None else 0)
        self.envelope = FakeEnvelope()
        self.content = FakeContent()
        self.spool = SlowSpool(self.clock)
        self.status = Status()
        self.notes = Notes(self.clock) if notes is None else notes
        self.mixed = MixedPolicy(
            choice=settings.get("mixed", Mixed.RETRY),
            fallback=settings.get("mixed_fallback", Mixed.SPLIT),
            retryLimit=settings.get("retry_limit", 2),
            notes=self.notes,
            quarantine=lambda policy: f"{policy}-quarantine",
            reachable=lambda sender: sender.domain != "nowhere.example",
            proved=lambda envelope: succeed(proved(envelope)),
            inThread=maybeDeferred,
            status=self.status,
            clock=self.clock,
        )
        backend = dict(backend or {})
        authenticator = backend.get("authenticator")
        if isinstance(authenticator, Authenticator) and authenticator.throttle is None:
            authenticator.throttle = Throttle(
                SharedLimits(self.clock), Limits(**(limits or {})), self.clock
            )
        self.released: list[str] = []
        self.works: list[Work] = []
        judge = ContentJudge({"open": [], "strict": [self.content]}, 2, status=self.status)
        envelope: IEnvelopeStage = self.envelope
        if submission is not None:
            services = FakeServices(reactor=self.clock)
            services.status = self.status
            users = Submission(submission, services)
            backend |= {"senders": [users], "weigh": users.weigh}
            envelope = users.counting(self.envelope)
        self.undeliverable: dict[str, Reply] = {}
        backend.setdefault("foresee", self._foresee)
        backend.setdefault("connectionLimits", connectionLimits())
        self.backend = Backend(
            ids=TransactionIds(),
            envelope=envelope,
            content=judge,
            spool=self.spool,
            release=self._release,
            status=self.status,
            mixed=self.mixed,
            **backend,
        )
        self.settings = ListenerSettings(
            name="test", hostname="mx.example.net", limits=Limits(**(limits or {})), **settings
        )
        self.transport = Transport() if transport is None else transport
        self.session = Session(self.settings, self.backend, self.clock)
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)

    async def _foresee(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> dict[int, Reply]:
        known = self.undeliverable
        return {i: known[str(one)] for i, one in enumerate(recipients) if str(one) in known}

    def _release(self, work: Work) -> None:
        self.spool.release(work, {})
        self.works.append(work)
        self.released += map(_shown, work.addressees)

    def send(self, data: bytes) -> None:
        self.session.dataReceived(data)
        self.turns()

    def turns(self) -> None:
        """
        Wait while it is others' turn.
        """
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def take(self) -> bytes:
        """
        What the session has said since the last time.
        """
        said = self.transport.value()
        self.transport.clear()
        return said

    def say(self, *lines: str) -> list[str]:
        """
        Send lines; return what is said to them.
        """
        self.send("".join(line + "\r\n" for line in lines).encode())
        return self.take().decode().splitlines()

    def lose(self) -> None:
        self.session.connectionLost(Failure(ConnectionDone()))

    @property
    def body(self) -> bytes:
        """
        The message that was released last.
        """
        with self.works[-1].message.open() as file:
            content: bytes = file.read()
            return content

    @property
    def closed(self) -> bool:
        return bool(self.transport.disconnecting)


def _shown(addressee: Addressee) -> str:
    """
    An address, and how it got there if not in the usual way.
    """
    route = addressee.recipient.route
    if addressee.refusal is not None:
        return f"{addressee}:notified"
    return (
        f"{addressee}:filed" if route and route.delivery.endswith("quarantine") else str(addressee)
    )


GREETING = ("EHLO client.example.com",)
