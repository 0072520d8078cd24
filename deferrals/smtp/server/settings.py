"""
What a session is given: its limits, its listener's choices, and the house
behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from deferrals.interfaces import Work
from deferrals.model.ids import TransactionIds
from deferrals.model.mixed import Mixed
from deferrals.model.networks import Networks
from deferrals.model.verdict import Outcome
from deferrals.smtp.server.connectionlimits import ConnectionLimits


@attrs.frozen
class Limits:
    """
    What one client may ask for.

    @ivar messageOctets: SIZE (RFC 1870); a longer message is 552 5.3.4.
    @ivar headerOctets: a longer header section is 552 5.3.4.
    @ivar recipients: per message; more are 452 4.5.3.
    @ivar extensionRecipients: the same, under DEFERRALS or PRDR (P-13).
    @ivar hops: Received fields; more are a loop, 554 5.4.6.
    @ivar errors: 5xx replies per session, before it is closed with 421.
    @ivar commands: per session, RCPT and BDAT excepted; then it is closed with
        421.
    @ivar transactions: per session, MAILMAX of RFC 9422; then it is closed with
        421.
    @ivar lineOctets: the longest command line, CRLF included.
    @ivar handshakeSeconds: how long a PROXY header, or a TLS handshake, may
        take.
    @ivar commandSeconds: the longest silence between commands
        (RFC 5321 §4.5.3.2.7).
    @ivar idleSeconds: the longest time without a transaction, whatever else is
        said.
    @ivar dataSeconds: the longest silence in the data.
    @ivar dataRate: octets per second that the data must have, measured over
        five minutes.
    @ivar authFailures: failed attempts per session, before it is closed with
        421.
    @ivar authSeconds: how long a checker of passwords may take.
    @ivar envelopeSeconds: how long an envelope stage may think.
    @ivar replyDeadlineSeconds: the longest silence after the data, and between
        two replies there; less than a minute (D-25).
    @ivar consolidationSeconds: how long 353 is held back in the hope of a
        unanimous answer (D-9, P-4, P-5).
    """

    messageOctets: int = 50 * 1024 * 1024
    headerOctets: int = 256 * 1024
    recipients: int = 1000
    extensionRecipients: int = 1000
    hops: int = 50
    errors: int = 20
    commands: int = 20000
    transactions: int = 1000
    lineOctets: int = 4096
    handshakeSeconds: float = 60.0
    commandSeconds: float = 300.0
    idleSeconds: float = 600.0
    dataSeconds: float = 300.0
    dataRate: float = 100.0
    authFailures: int = 3
    authSeconds: float = 30.0
    envelopeSeconds: float = 30.0
    replyDeadlineSeconds: float = 50.0
    consolidationSeconds: float = 2.0


@attrs.frozen
class ListenerSettings:
    """
    @ivar name: for the log.
    @ivar hostname: how the server introduces itself.
    @ivar protocol: C{"smtp"}, C{"submission"} or C{"lmtp"}.
    @ivar mixed: what a plain sender gets when its recipients differ.
    @ivar mixedFallback: what follows when a message has been refused for now
        too often.
    @ivar retryLimit: how often that may be, for one message.
    @ivar bareNewlines: C{"refuse"} or C{"normalise"}.
    @ivar tls: C{"none"}, C{"starttls"} (offered), C{"required"} (no mail
        without it) or C{"implicit"} (from the first octet).
    @ivar certificates: L{Certificates<deferrals.smtp.server.certificates.Certificates>};
        L{None} only where C{tls} is C{"none"}.
    @ivar auth: C{"no"}, C{"offered"} or C{"required"}.
    @ivar authWithoutTLS: whether passwords may come in clear text.
    @ivar greetSeconds: how long the greeting is held back; who talks before it
        is refused.
    @ivar proxied: whether connections begin with a PROXY header.
    @ivar proxies: whose PROXY header is believed.
    @ivar xclient: who may use XCLIENT.
    @ivar withheld: EHLO keywords that are not offered.
    @ivar enumerates: C{"content"} or C{"delivery"}: what the answer is about.
    @ivar deliverySeconds: how long it waits for deliveries.
    """

    name: str
    hostname: str
    protocol: str = "smtp"
    mixed: Mixed = Mixed.SPLIT
    mixedFallback: Mixed = Mixed.FILE
    retryLimit: int = 2
    bareNewlines: str = "refuse"
    tls: str = "none"
    certificates: Any = None
    auth: str = "no"
    authWithoutTLS: bool = False
    greetSeconds: float = 0.0
    proxied: bool = False
    proxies: Networks = Networks()
    xclient: Networks = Networks()
    withheld: frozenset[str] = frozenset()
    enumerates: str = "content"
    deliverySeconds: float = 20.0
    limits: Limits = Limits()


@attrs.frozen
class Backend:
    """
    The house behind a session.

    @ivar ids: makes the numbers of transactions.
    @ivar envelope: L{IEnvelopeStage<deferrals.interfaces.IEnvelopeStage>}.
    @ivar content: the judge of L{deferrals.stages.content.judge}: C{cohort} and
        C{judge}.
    @ivar spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @ivar release: called with the L{Work} of a staged message right after its
        final reply was written: from here on it is ours.
    @ivar status: L{Status<deferrals.model.status.Status>}.
    @ivar mixed: L{MixedPolicy<deferrals.smtp.server.mixed.MixedPolicy>}.
    @ivar guard: counts connections and failed passwords.
    @ivar gate: L{Authenticator<deferrals.smtp.server.auth.Authenticator>}: who may log in; L{None}
        where nobody can.
    @ivar binary: whether every delivery takes BODY=BINARYMIME as it is.
    @ivar attempt: instead of C{release}, where delivery comes before the reply
        (S-6): called with the L{Work} of a staged message, and whether the
        client keeps the recipients that are refused; returns a Deferred that
        fires with the outcomes that are known, by C{seq}, when there is nothing
        more to wait for, or when it is cancelled.
    @ivar deliverySeconds: how long the reply waits for deliveries then.
    """

    ids: TransactionIds
    envelope: Any
    content: Any
    spool: Any
    release: Callable[[Work], None]
    status: Any
    mixed: Any
    guard: ConnectionLimits = attrs.field(factory=ConnectionLimits)
    gate: Any = None
    binary: bool = False
    attempt: Callable[[Work, bool], Deferred[dict[int, Outcome]]] | None = None
    deliverySeconds: float = 20.0
