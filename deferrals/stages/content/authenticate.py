"""
The content stage C{authenticate}: is a message its author's?  SPF, DKIM, ARC and DMARC.

That is found out once for each message (L{IServices.authentication}); what it means is
each recipient's: the subscriber of a list trusts the list, and the colleague next to it
refuses the very same message.  Each copy says what was found, in one
C{Authentication-Results}.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Hashable, Sequence
from typing import get_args

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel
from zope.interface import implementer

from deferrals.deferreds import withDeadline
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.authentication import DMARC, DNS_SECONDS, Authentication, Chain, Signature
from deferrals.model.authpolicy import (
    Action,
    AuthDecision,
    AuthPolicy,
    DMARCMeans,
    Domains,
    Forwarders,
    SPFMeans,
    decide,
    refusalFor,
)
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_STAGE_FAILED
from deferrals.model.settings import BadSetting, Seconds, checked
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult
from deferrals.model.trace import asciiName
from deferrals.model.verdict import Accept, ContentVerdict, Marks, Overrides, Refuse, Route
from deferrals.stages.content.scanner import OnError, notScanned

_log = Logger(namespace="deferrals.stages.authenticate")

_FIELD = "Authentication-Results"
_NEEDED = ("dkim", "nacl", "dmarc", "publicsuffixlist")

#: So many recipients' own settings are remembered as they are meant.
MAX_REMEMBERED = 1024

#: What is known where there is no answer.
UNKNOWN = Authentication(
    Finding(SPFResult.TEMPERROR, ""),
    (Signature("temperror"),),
    Chain("temperror"),
    DMARC("temperror", problem="there is no answer in time"),
)


def _longEnough(seconds: float) -> None:
    """
    Otherwise a sender could have nothing known: it names a key whose server is silent.
    """
    if seconds <= DNS_SECONDS:
        raise ValueError(f"more than {DNS_SECONDS:.0f} seconds, which DNS has")


@attrs.frozen
class AuthenticateSettings:
    """
    @ivar dmarc: what it means that a message is not its author's, where the author's
        domain wants such ones refused (C{p=reject}): C{"enforce"}: refuse; C{"mark"}:
        the copy is junk; C{"ignore"}: nothing.  Where it wants them put aside
        (C{p=quarantine}), they are junk, but with C{"ignore"}.
    @ivar trusted_forwarders: clients whose failures are not held against them: networks,
        and domains (C{example.org}; C{*.example.org} for those below) that SPF proves.
    @ivar trusted_sealers: domains whose results count as ours: a chain of seals (ARC) that
        holds, in which one of these says that the author is proved, and which none but
        these has sealed behind it.
    @ivar spf: whether SPF alone refuses a message whose sender's domain says C{-all}.
    @ivar reply: what a recipient refuses with whose author's domain wants it so;
        C{{domain}} is that domain.
    @ivar timeout: for all that is asked; more than the 10 seconds that DNS has.
    @ivar on_error: what it means that DNS does not say: C{"accept"}: the copy is
        accepted, and says C{temperror}; C{"refuse-temporarily"}: 451; C{"skip"}: as if this
        stage were not there.
    """

    dmarc: DMARCMeans = "mark"
    trusted_forwarders: tuple[str, ...] = attrs.field(
        default=(), validator=checked(Forwarders.parse)
    )
    trusted_sealers: tuple[str, ...] = attrs.field(default=(), validator=checked(Domains.parse))
    spf: SPFMeans = "ignore"
    reply: str = attrs.field(
        default="550 5.7.1 refused: not sent by {domain} (DMARC)", validator=checked(refusalFor)
    )
    timeout: Seconds = attrs.field(default=Seconds(15.0), validator=checked(_longEnough))
    on_error: OnError = "accept"

    def __attrs_post_init__(self) -> None:
        if not all(map(importlib.util.find_spec, _NEEDED)):
            raise BadSetting("use", 'another stage, or: pip install "deferrals[authentication]"')


@implementer(IContentStage)
class AuthenticateStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: AuthenticateSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._hostname = asciiName(services.hostname)
        self._policy = functools.lru_cache(MAX_REMEMBERED)(self._policyWith)

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        What the recipient wants, its own settings included.
        """
        return self._policyOf(recipient)

    def _policyOf(self, recipient: Recipient) -> AuthPolicy:
        return self._policy((recipient.route or Route("", "")).overrides)

    def _policyWith(self, overrides: Overrides) -> AuthPolicy:
        """
        @raise ValueError: one of the recipient's own settings cannot be.
        """
        route, settings = Route("", "", overrides), self._settings

        def own(key: str) -> str | None:
            found = route.own("authenticate", key)
            return None if found is None else str(found)

        dmarc, spf, reply = own("dmarc"), own("spf"), own("reply")
        forwarders, sealers = own("trusted_forwarders"), own("trusted_sealers")
        return AuthPolicy(
            next((one for one in get_args(DMARCMeans) if one == dmarc), settings.dmarc),
            next((one for one in get_args(SPFMeans) if one == spf), settings.spf),
            Forwarders.parse(
                settings.trusted_forwarders if forwarders is None else forwarders.split()
            ),
            Domains.parse(settings.trusted_sealers if sealers is None else sealers.split()),
            settings.reply if reply is None else reply,
        )

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        policy = self._policyOf(recipients[0])
        return Deferred.fromCoroutine(self._judge(message, envelope, policy))

    async def _judge(
        self, message: IMessage, envelope: Envelope, policy: AuthPolicy
    ) -> ContentVerdict:
        services = self._services
        try:
            found = await withDeadline(
                services.reactor,
                self._settings.timeout,
                services.authentication,
                message,
                envelope,
            )
        except CancelledError:
            raise
        except Exception as error:
            unknown = AuthDecision("unsure", f"{type(error).__name__}: {error}")
            return self._unsure(envelope, UNKNOWN, unknown)
        decided = decide(found, envelope.client.address, policy)
        if decided.action == "unsure":
            return self._unsure(envelope, found, decided)
        return self._verdict(found, decided)

    def _verdict(self, found: Authentication, decided: AuthDecision) -> ContentVerdict:
        why = f"authenticate: {decided.why}" if decided.why else ""
        if decided.reply is not None:
            return Refuse(decided.reply, why=why)
        words = "; ".join(found.words(self._hostname))
        if decided.trusted:
            words = f"{words} ({decided.trusted})"
        marks = Marks(((_FIELD, words),), junk=decided.action == "junk")
        return Accept(marks, why=why)

    def _unsure(
        self, envelope: Envelope, found: Authentication, decided: AuthDecision
    ) -> ContentVerdict:
        onError, problem = self._settings.on_error, decided.why
        _log.tell(
            self._services.status,
            "{transaction}: not known whose it is, so {on_error}: {error}",
            event="unscanned",
            level=LogLevel.warn,
            transaction=envelope.id,
            stage="authenticate",
            on_error=onError,
            error=problem,
        )
        why = f"{notScanned('authenticate', onError)}: {problem}"
        if onError == "refuse-temporarily":
            return Refuse(R451_STAGE_FAILED, why=why)
        if onError == "skip":
            return Accept(why=why)
        action: Action = "junk" if decided.isJunk else "accept"
        verdict = self._verdict(found, AuthDecision(action))
        return attrs.evolve(verdict, why=why)
