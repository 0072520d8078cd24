"""
The envelope stage C{callout}: ask the server behind this one, or the next one on the
way, at RCPT TO, whether it would take the recipient.

The question is MAIL, RCPT, RSET; never DATA.  What the server refuses is
refused here with its own reply, before responsibility is taken (S-5); what it
takes leaves the opinions of the other stages as they are.  Answers are
remembered; the same question under way is asked once.

A recipient with a subaddress is asked about as it was named; where there is no such
one (550 5.1.1), without its subaddress.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import attrs
from cachetools import TLRUCache
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from deferrals.deferreds import UnderWay, asDeferred, withDeadline
from deferrals.errors import HopError, StageError
from deferrals.interfaces import IAskableDelivery, IEnvelopeStage, IServices
from deferrals.logger import Logger
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop, Security, Timeouts, wireAddress
from deferrals.model.reply import Reply
from deferrals.model.settings import BadSetting, Seconds, checked, positive
from deferrals.model.verdict import Failed, Refuse, Retry
from deferrals.stages.delivery.remote import hopTo

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
    @ivar through: instead of an endpoint: the name of one of C{[deliveries]}, C{lmtp},
        C{smtp}, C{mx} or C{forward}; the servers are asked that it would deliver to.
    @ivar protocol: what the server at the endpoint speaks.
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

    endpoint: str | None = None
    through: str | None = None
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

    def __attrs_post_init__(self) -> None:
        if (self.endpoint is None) == (self.through is None):
            raise BadSetting("endpoint", "either an endpoint, or through")


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
        self._underWay: UnderWay[Reply | None] = UnderWay()
        self._own: Sequence[Hop] = ()
        if settings.endpoint is not None:
            endpoint, tls = settings.endpoint, settings.tls
            hop = hopTo(services, endpoint, tls, settings.tls_name, settings.tls_ca)
            self._own = [attrs.evolve(hop, lmtp=settings.protocol == "lmtp")]

    def _until(self, address: str, refusal: Reply | None, now: float) -> float:
        """
        When an answer is forgotten.
        """
        settings = self._settings
        return now + (settings.positive_cache if refusal is None else settings.negative_cache)

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Deferred[Refuse | None]:
        return Deferred.fromCoroutine(self._judgeForms(envelope, recipient))

    async def _judgeForms(self, envelope: Envelope, recipient: Recipient) -> Refuse | None:
        refuse = await self._judge(envelope, recipient)
        user, _ = recipient.parted()
        if user is recipient.address or refuse is None or not _isUnknown(refuse.reply):
            return refuse
        other = await self._judge(envelope, attrs.evolve(recipient, address=user))
        return other if other is None or other.reply.isTemporary else refuse

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> Refuse | None:
        try:
            refusal = self._known[wireAddress(recipient.address)]
        except KeyError:
            return await self._askFor(envelope, recipient)
        self._count("remembered")
        return _verdict(refusal)

    async def _askFor(self, envelope: Envelope, recipient: Recipient) -> Refuse | None:
        self._count("asked")
        try:
            return _verdict(await self._ask(recipient))
        except CancelledError:
            raise
        except Exception as error:
            return self._unknown(envelope, wireAddress(recipient.address), error)

    def _count(self, kind: str) -> None:
        self._services.status.count("callouts", kind)

    def _unknown(self, envelope: Envelope, address: str, error: Exception) -> Refuse | None:
        self._count("unanswered")
        _log.warn(
            "{transaction}: asking {endpoint} about <{address}>: {error}, so {on_error}",
            transaction=envelope.id,
            endpoint=self._where,
            address=address,
            error=f"{type(error).__name__}: {error}",
            on_error=self._settings.on_error,
        )
        if self._settings.on_error == "accept":
            return None
        return Refuse(R451_NO_ANSWER, why=f"callout: {self._where} has not answered")

    @property
    def _where(self) -> str:
        settings = self._settings
        return settings.endpoint or f"the servers of {settings.through}"

    def _ask(self, recipient: Recipient) -> Deferred[Reply | None]:
        """
        @return: a Deferred of the reply that refuses a recipient, or C{None}.
        """
        address = wireAddress(recipient.address)
        return self._underWay.wait(address, self._inTime, recipient)

    def _inTime(self, recipient: Recipient) -> Deferred[Reply | None]:
        return withDeadline(self._clock, self._settings.timeout, self._question, recipient)

    async def _hops(self, recipient: Recipient) -> Sequence[Hop] | Failed | Retry:
        """
        The servers that are asked.
        """
        settings = self._settings
        found: Sequence[Hop] | Failed | Retry = self._own
        if settings.through is not None:
            delivery = self._services.delivery(settings.through)
            if not IAskableDelivery.providedBy(delivery):
                raise StageError(f"the delivery {settings.through} has no servers to be asked")
            found = await asDeferred(delivery.hops, recipient)
        if isinstance(found, Failed | Retry):
            return found
        asking = functools.partial(
            attrs.evolve,
            forms=(),
            connections=settings.connections,
            messages=1000,
            idleSeconds=settings.idle_timeout,
            timeouts=Timeouts(settings.timeout),
        )
        return [asking(hop) for hop in found]

    async def _question(self, recipient: Recipient) -> Reply | None:
        hops = await self._hops(recipient)
        address = wireAddress(recipient.address)
        if isinstance(hops, Failed):
            self._known[address] = refusal = hops.reply.forRecipient()
            return refusal
        if isinstance(hops, Retry):
            raise StageError(str(hops.reply))
        return await self._answer(hops, address)

    async def _answer(self, hops: Sequence[Hop], address: str) -> Reply | None:
        """
        What the first one says that can be reached.
        """
        sender = self._settings.sender
        problem: Exception = StageError("there is no server")
        for hop in hops:
            try:
                mail, rcpt = await self._services.nextHops.ask(hop, sender, address)
                break
            except HopError as error:
                problem = error
        else:
            raise problem
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


def _isUnknown(reply: Reply) -> bool:
    return (reply.code, reply.enhanced) == (550, "5.1.1")


def _verdict(refusal: Reply | None) -> Refuse | None:
    return None if refusal is None else Refuse(refusal, why="callout")
