"""
The envelope stage C{callout}: ask the server behind this one, at RCPT TO,
whether it would take the recipient.

The question is MAIL, RCPT, RSET; never DATA.  What the server refuses is
refused here with its own reply, before responsibility is taken (S-5); what it
takes leaves the opinions of the other stages as they are.  Answers are
remembered; the same question under way is asked once.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any, Literal

import attrs
from twisted.internet.defer import CancelledError, inlineCallbacks
from twisted.logger import Logger
from zope.interface import implementer

from deferrals.deferreds import SharedResult, withDeadline
from deferrals.errors import StageError
from deferrals.interfaces import IEnvelopeStage
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop, Security, Timeouts, wireAddress
from deferrals.model.reply import Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import Refuse
from deferrals.stages.delivery.remote import checkEndpoint, hostOf

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

    def __init__(self, settings: CalloutSettings, services: Any) -> None:
        endpoint = checkEndpoint(services, settings.endpoint)
        self._settings = settings
        self._services = services
        self._clock = services.reactor
        self._known: OrderedDict[str, tuple[float, Reply | None]] = OrderedDict()
        self._asking: dict[str, SharedResult] = {}
        ca = settings.tls_ca
        self._hop = Hop(
            endpoint,
            endpoint,
            settings.tls_name or hostOf(endpoint),
            lmtp=settings.protocol == "lmtp",
            forms=(),
            security=settings.tls,
            ca=None if ca is None else os.path.join(services.baseDir, ca),
            connections=settings.connections,
            messages=1000,
            idleSeconds=settings.idle_timeout,
            timeouts=Timeouts(settings.timeout),
        )

    @inlineCallbacks
    def judge(self, envelope: Envelope, recipient: Recipient) -> Any:
        """
        See L{IEnvelopeStage.judge}.
        """
        address = wireAddress(recipient.address)
        expires, refusal = self._known.get(address, (0.0, None))
        self._count("remembered" if expires > self._clock.seconds() else "asked")
        if expires <= self._clock.seconds():
            try:
                refusal = yield self._ask(address)
            except CancelledError:
                raise
            except Exception as error:
                return self._unknown(envelope, address, error)
        return None if refusal is None else Refuse(refusal)

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
        return None if self._settings.on_error == "accept" else Refuse(R451_NO_ANSWER)

    def _ask(self, address: str) -> Any:
        """
        @return: a Deferred of the reply that refuses a recipient, or L{None}.
        """
        shared = self._asking.get(address)
        if shared is None:
            d = withDeadline(self._clock, self._settings.timeout, self._question, address)
            shared = SharedResult(d)
            if not d.called:
                self._asking[address] = shared
                d.addBoth(self._asked, address)
        return shared.wait()

    def _asked(self, result: Any, address: str) -> Any:
        del self._asking[address]
        return result

    @inlineCallbacks
    def _question(self, address: str) -> Any:
        settings = self._settings
        mail, rcpt = yield self._services.nextHops.ask(self._hop, settings.sender, address)
        if not mail.isPositive:
            raise StageError(f"MAIL FROM was answered {mail}")
        if rcpt.isIntermediate or rcpt.code == 421:
            raise StageError(f"RCPT TO was answered {rcpt}")
        refusal = None if rcpt.isPositive else self._refusal(address, rcpt)
        if refusal is None or refusal.isPermanent:
            seconds = settings.positive_cache if refusal is None else settings.negative_cache
            self._known[address] = (self._clock.seconds() + seconds, refusal)
            self._known.move_to_end(address)
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
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
