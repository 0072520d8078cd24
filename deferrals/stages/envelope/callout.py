"""
The envelope stage C{callout}: ask the server behind this one, at RCPT TO,
whether it would take the recipient.

The question is MAIL, RCPT, RSET; never DATA.  What the server refuses is
refused here with its own reply, before responsibility is taken (S-5); what it
takes leaves the opinions of the other stages as they are.  Answers are
remembered; the same question under way is asked once.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import attrs
from cachetools import TLRUCache
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from deferrals.deferreds import SharedResult, withDeadline
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage, IServices
from deferrals.logger import Logger
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Security, Timeouts, wireAddress
from deferrals.model.reply import Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import Refuse
from deferrals.stages.delivery.remote import hopTo

_T = TypeVar("_T")

_log = Logger(namespace="deferrals.stages.callout")

#: How many answers are remembered; the ones that were asked for last.
MAX_REMEMBERED = 100_000

R451_NO_ANSWER = Reply(451, "4.4.1", "the recipient cannot be verified now")


def _sender(value: str) -> None:
    if value:
        try:
            Mailbox.parse(value)
        except AddressError:
            raise ValueError("an address, or nothing for <>") from None


@attrs.frozen(kw_only=True)
class CalloutSettings:
    """
    @ivar endpoint: a Twisted client endpoint string, as in the delivery.
    @ivar protocol: what the server speaks.
    @ivar sender: the reverse path of the question; nothing for C{<>}.
    @ivar positive_cache: how long it is remembered that a recipient is taken.
    @ivar negative_cache: how long, that it is refused for good; a temporary refusal
        is not remembered.
    @ivar over_quota: what a full mailbox (552, or 5.2.2) means:
        C{"refuse-temporarily"}, 452 4.2.2, since mailboxes are emptied; or
        C{"refuse"}, as the server says.
    @ivar on_error: what it means that there is no answer.
    @ivar timeout: how long an answer may take, a connection included.
    @ivar connections: to the server at once; the next question waits.
    @ivar idle_timeout: how long a connection that is not used is kept.
    @ivar tls: C{"none"}, C{"opportunistic"}, C{"required"} or C{"verified"}.
    @ivar tls_name: what the certificate must say; the endpoint's host.
    @ivar tls_ca: a file of certificates (PEM) that are trusted; those that the
        system trusts.
    """

    endpoint: str
    protocol: Literal["lmtp", "smtp"] = "lmtp"
    sender: str = attrs.field(default="", validator=checked(_sender))
    positive_cache: Seconds = Seconds(300)
    negative_cache: Seconds = Seconds(60)
    over_quota: Literal["refuse-temporarily", "refuse"] = "refuse-temporarily"
    on_error: Literal["refuse-temporarily", "accept"] = "refuse-temporarily"
    timeout: Seconds = attrs.field(default=Seconds(10), validator=checked(positive))
    connections: int = attrs.field(default=5, validator=checked(positive))
    idle_timeout: Seconds = attrs.field(default=Seconds(30), validator=checked(positive))
    tls: Security = "none"
    tls_name: str | None = None
    tls_ca: str | None = None


@implementer(IEnvelopeStage)
class CalloutStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: CalloutSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._clock = services.reactor
        self._known: TLRUCache[str, Reply | None] = TLRUCache(
            MAX_REMEMBERED, self._until, self._clock.seconds
        )
        self._asking: dict[str, SharedResult[Reply | None]] = {}
        hop = hopTo(services, settings.endpoint, settings.tls, settings.tls_name, settings.tls_ca)
        self._hop = attrs.evolve(
            hop,
            lmtp=settings.protocol == "lmtp",
            forms=(),
            connections=settings.connections,
            messages=1000,
            idleSeconds=settings.idle_timeout,
            timeouts=Timeouts(settings.timeout),
        )

    def _until(self, address: str, refusal: Reply | None, now: float) -> float:
        """
        When an answer is forgotten.
        """
        settings = self._settings
        return now + (settings.positive_cache if refusal is None else settings.negative_cache)

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Deferred[Refuse | None]:
        return Deferred.fromCoroutine(self._judge(envelope, wireAddress(recipient.address)))

    async def _judge(self, envelope: Envelope, address: str) -> Refuse | None:
        try:
            refusal = self._known[address]
        except KeyError:
            return await self._askFor(envelope, address)
        self._count("remembered")
        return _verdict(refusal)

    async def _askFor(self, envelope: Envelope, address: str) -> Refuse | None:
        self._count("asked")
        try:
            return _verdict(await self._ask(address))
        except CancelledError:
            raise
        except Exception as error:
            return self._unknown(envelope, address, error)

    def _count(self, kind: str) -> None:
        self._services.status.count("callouts", kind)

    def _unknown(self, envelope: Envelope, address: str, error: Exception) -> Refuse | None:
        self._count("unanswered")
        _log.warn(
            "{transaction}: asking {endpoint} about <{address}>: {error}, so {on_error}",
            transaction=envelope.id,
            endpoint=self._hop.endpoint,
            address=address,
            error=f"{type(error).__name__}: {error}",
            on_error=self._settings.on_error,
        )
        if self._settings.on_error == "accept":
            return None
        return Refuse(R451_NO_ANSWER, why=f"callout: {self._hop.endpoint} has not answered")

    def _ask(self, address: str) -> Deferred[Reply | None]:
        """
        @return: a Deferred of the reply that refuses a recipient, or C{None}.
        """
        shared = self._asking.get(address)
        if shared is None:
            d = withDeadline(self._clock, self._settings.timeout, self._question, address)
            shared = SharedResult(d)
            if not d.called:
                self._asking[address] = shared
                d.addBoth(self._asked, address)
        return shared.wait()

    def _asked(self, result: _T, address: str) -> _T:
        del self._asking[address]
        return result

    async def _question(self, address: str) -> Reply | None:
        sender = self._settings.sender
        mail, rcpt = await self._services.nextHops.ask(self._hop, sender, address)
        if not mail.isPositive:
            raise StageError(f"MAIL FROM was answered {mail}")
        if rcpt.isIntermediate or rcpt.code == 421:
            raise StageError(f"RCPT TO was answered {rcpt}")
        refusal = None if rcpt.isPositive else self._refusal(address, rcpt)
        if refusal is None or refusal.isPermanent:
            self._known[address] = refusal
        return refusal

    def _refusal(self, address: str, reply: Reply) -> Reply:
        """
        A server's reply as our own, which has the address in front anyway.
        """
        text = " ".join(reply.text.split()).removeprefix(f"<{address}>").lstrip()
        text = text or "refused by the mail store"
        full = reply.code == 552 or reply.enhanced in ("5.2.2", "4.2.2")
        if full and self._settings.over_quota == "refuse-temporarily":
            return Reply(452, "4.2.2", text)
        return Reply(reply.code, reply.enhanced or f"{reply.code // 100}.0.0", text).forRecipient()


def _verdict(refusal: Reply | None) -> Refuse | None:
    return None if refusal is None else Refuse(refusal, why="callout")
