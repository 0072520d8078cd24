"""
The content stage C{rspamd}: asks rspamd over HTTP (C{POST /checkv2}).

One scan per message, which all recipients share; thresholds, weights and ignored symbols are
each policy's, or each recipient's, and are applied here to its result.  Only
for recipients that want other rules (C{settings_id}), or rules and statistics
of their own (C{per_user}), there are further scans, one per settings id or
recipient, which name that one recipient and leave no second line in rspamd's
log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from deferrals.interfaces import IExpectingStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.networks import LOCAL, UNKNOWN
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, Seconds, checked, positive
from deferrals.model.verdict import NO_MARKS, ContentVerdict, Refuse
from deferrals.stages.content.rspamdreply import RspamdScan, readScan
from deferrals.stages.content.scanner import OnError, Scanner, TooLargeMeans, tooLarge
from deferrals.stages.content.scores import (
    DEFAULT_REPLY,
    MAX_NAMED,
    ScoreLimits,
    ScoringStage,
    acceptance,
    decision,
    limitsOf,
    number,
    refusal,
    symbolsNamed,
)
from deferrals.stages.web import LOST, fromJSON, httpURL, webClient

_log = Logger(namespace="deferrals.stages.rspamd")

#: Smaller messages are not too large for any rspamd.
SUSPECT_OCTETS = 1 << 20

#: The status of an answer that is about the message's size.
_TOO_LARGE = 413

_LATER = "451 4.7.1 not accepted now, try again later"

#: What a policy's C{admits} calls what rspamd refuses for another reason than its score.
FORCED = "rspamd.forced"


def _weights(
    value: dict[str, float] | tuple[tuple[str, float], ...],
) -> tuple[tuple[str, float], ...]:
    """
    @param value: as the configuration has it, or as this has made it: settings are made
        again of settings, for each of several workers.
    """
    return tuple(sorted(dict(value).items()))


@attrs.frozen
class RspamdSettings:
    """
    @ivar url: rspamd's normal worker.
    @ivar timeout: for one scan.
    @ivar on_error: what it means that there is no scan: 451; accept, with a
        field in the copy that says so; or as if this stage were not there.
    @ivar refuse_score: refuse from this score on; without it, where rspamd's
        action is C{reject}; C{inf}: never.
    @ivar mark_score: mark the copy from this score on; without it, where
        rspamd's action is C{add header}, C{rewrite subject} or C{reject}.
    @ivar weights: scores of symbols in place of rspamd's own.
    @ivar ignore: symbols that count nothing.
    @ivar settings_id: rspamd's C{Settings-ID} for these recipients: a scan of
        their own.
    @ivar per_user: a scan for each recipient, with its own statistics.
    @ivar greylist: what rspamd's action C{greylist} means: its own milter accepts,
        and refuses for now where its greylisting module says C{soft reject}.
    @ivar reply: what a recipient refuses with, unless rspamd has a text for it.
    @ivar add_headers: whether a copy says its score (C{X-Spam-Score}), and
        C{X-Spam: Yes} where it is marked.
    @ivar milter_headers: whether fields that rspamd wants added or removed are, and
        its signatures (DKIM).
    @ivar subject_tag: put in front of the Subject of a marked copy.
    @ivar junk: whether a marked copy is filed as junk.
    @ivar max_size: larger messages are too large, and not sent.
    @ivar too_large: what that means, and rspamd's answer 413: accept; accept, with a
        field that says so (C{Deferrals-Unscanned}); or refuse.
    @ivar concurrency: scans at once.
    """

    url: str = attrs.field(default="http://127.0.0.1:11333", validator=checked(httpURL))
    timeout: Seconds = attrs.field(default=Seconds(15.0), validator=checked(positive))
    on_error: OnError = "refuse-temporarily"
    refuse_score: float | None = attrs.field(default=None, validator=checked(number))
    mark_score: float | None = attrs.field(default=None, validator=checked(number))
    weights: dict[str, float] = attrs.field(factory=dict, converter=_weights)
    ignore: tuple[str, ...] = ()
    settings_id: str = ""
    per_user: bool = False
    greylist: Literal["refuse-temporarily", "accept"] = "accept"
    reply: str = attrs.field(default=DEFAULT_REPLY, validator=checked(Reply.parseRefusal))
    add_headers: bool = True
    milter_headers: bool = True
    subject_tag: str = ""
    junk: bool = True
    max_size: Octets = attrs.field(default=Octets(50 << 20), validator=checked(positive))
    too_large: TooLargeMeans = "mark"
    concurrency: int = attrs.field(default=50, validator=checked(positive))


class _Scans:
    """
    What is known of one message's scans.

    @ivar sharers: the recipients of the scan that all share.
    @ivar made: how many have been made.
    """

    def __init__(self) -> None:
        self.sharers: list[Recipient] = []
        self.made = 0


@attrs.frozen
class _OwnRules:
    """
    What makes a scan a recipient's own; all of it empty for the scan that all
    share.

    @ivar settingsId: rspamd's C{Settings-ID}.
    @ivar address: the recipient with statistics of its own.
    """

    settingsId: str = ""
    address: str = ""


_SHARED = _OwnRules()


@implementer(IExpectingStage)
class RspamdStage(ScoringStage[_OwnRules, RspamdScan | None]):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: RspamdSettings, services: IServices) -> None:
        super().__init__(settings, Scanner("rspamd", settings.url, settings, services))
        self._settings = settings
        self._hostname = services.hostname
        self._url = settings.url.rstrip("/") + "/checkv2"
        self._weights = {**dict(settings.weights), **dict.fromkeys(settings.ignore, 0.0)}
        self._web = webClient(services, settings.concurrency)
        self._named: set[str] = set()

    def scanOf(self, recipient: Recipient) -> _OwnRules:
        own = recipient.own("rspamd", "settings_id")
        settingsId = self._settings.settings_id if own is None else str(own)
        return _OwnRules(settingsId, recipient.address.key if self._settings.per_user else "")

    def expect(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> None:
        """
        See L{IExpectingStage.expect}: the scan that all share names them all.
        """
        found = [
            recipient
            for recipient in recipients
            if limitsOf("rspamd", self._settings, recipient) is not None
            and self.scanOf(recipient) == _SHARED
        ]
        self._scans(message).addCallback(lambda scans: scans.sharers.extend(found))

    def _scans(self, message: IMessage) -> Deferred[_Scans]:
        return message.shared((*self._scanner.identity, "scans"), lambda _: _Scans())

    async def scan(
        self,
        message: IMessage,
        envelope: Envelope,
        key: _OwnRules,
        recipients: Sequence[Recipient],
    ) -> RspamdScan | None:
        """
        @return: C{None} where the message is too large.
        """
        scans = await self._scans(message)
        named = scans.sharers or recipients if key == _SHARED else recipients[:1]
        headers = requestHeaders(envelope, self._hostname, named)
        if key.settingsId:
            headers.setRawHeaders("Settings-ID", [key.settingsId])
        if scans.made:
            headers.setRawHeaders("Flags", ["no_log"])
        scans.made += 1
        try:
            status, body = await self._web.request("POST", self._url, headers, message)
        except LOST:
            if message.size < SUSPECT_OCTETS or not await self._answers():
                raise
            return None
        if status == _TOO_LARGE:
            return None
        scan = readScan(fromJSON(status, body))
        self._report(envelope, scan)
        return scan

    async def _answers(self) -> bool:
        """
        Whether rspamd works.  Where it does, and closes the connection without a word
        at a large message, again and again, that is too large for it: not all of its
        versions say 413.
        """
        ping = self._settings.url.rstrip("/") + "/ping"
        status, _ = await self._web.request("GET", ping, Headers())
        return status == 200

    def _report(self, envelope: Envelope, scan: RspamdScan) -> None:
        _log.info(
            "{transaction}: {action}, score {score}: {symbols}",
            transaction=envelope.id,
            action=scan.action,
            score=scan.score,
            symbols=symbolsNamed(f"{name}({score:g})" for name, score in scan.symbols.items()),
        )
        if scan.instead:
            _log.warn(
                "{transaction}: rspamd's action {action} is not carried out here, but: {instead}",
                transaction=envelope.id,
                action=scan.action[:100],
                instead=scan.instead,
            )
        for part in scan.unknown:
            if part not in self._named and len(self._named) < MAX_NAMED:
                self._named.add(part)
                _log.warn(
                    "{transaction}: of rspamd's answers {part} is not carried out",
                    transaction=envelope.id,
                    part=part[:200],
                )

    def tooLarge(self) -> ContentVerdict:
        return tooLarge("rspamd", self._settings.too_large)

    def scoreOf(self, scan: RspamdScan | None) -> float | None:
        return None if scan is None else scan.scoreWith(self._weights)

    def decide(self, scan: RspamdScan | None, limits: ScoreLimits) -> ContentVerdict:
        if scan is None:
            return self.tooLarge()
        settings = self._settings
        score = scan.scoreWith(self._weights)
        why = decision("rspamd", score, limits, f"action {scan.action[:100]}")
        if refuses(scan, score, limits):
            return _refused(settings.reply, scan, score, why)
        if scan.action == "soft reject":
            return refusal(_LATER, scan.text, why)
        if scan.action == "greylist" and settings.greylist == "refuse-temporarily":
            return refusal(_LATER, scan.text, why)
        return self._acceptance(scan, score, _isMarked(scan, score, limits), why)

    def _acceptance(self, scan: RspamdScan, score: float, marked: bool, why: str) -> ContentVerdict:
        """
        A copy, with what rspamd wants of it.
        """
        settings = self._settings
        marks = scan.marks if settings.milter_headers else NO_MARKS
        if marked and scan.action == "rewrite subject" and not settings.subject_tag:
            marks = marks.plus(scan.subject)
        spam = scan.spam if settings.milter_headers and marked else NO_MARKS
        return acceptance(settings, score, marked, marks.plus(spam), why, spam == NO_MARKS)


def _isMarked(scan: RspamdScan, score: float, limits: ScoreLimits) -> bool:
    if scan.action == "quarantine":
        return True
    if limits.mark is None:
        return scan.refuses or scan.action in ("add header", "rewrite subject")
    return score >= limits.mark


def refuses(scan: RspamdScan, score: float, limits: ScoreLimits) -> bool:
    """
    Whether a cohort refuses.  A C{reject} that a rule of rspamd's demands,
    whatever the score, holds for every cohort that refuses at all.
    """
    if limits.refuse is None:
        return scan.refuses
    if score >= limits.refuse:
        return True
    return scan.forced and limits.refuse != float("inf")


def requestHeaders(envelope: Envelope, hostname: str, recipients: Sequence[Recipient]) -> Headers:
    """
    What rspamd is told beside the message.

    @param hostname: this server's name.
    @param recipients: the ones that the scan is for.
    """
    client = envelope.client
    version, _, cipher = (client.tls or "").partition(" ")
    said = {
        "From": envelope.senderText,
        "IP": "" if client.address in (LOCAL, UNKNOWN) else client.address,
        "Helo": client.helo,
        "Hostname": client.hostname,
        "User": client.user or "",
        "Queue-Id": envelope.id,
        "MTA-Name": hostname,
        "TLS-Version": version,
        "TLS-Cipher": cipher,
    }
    headers = Headers()
    for name, value in said.items():
        if value or name == "From":
            headers.setRawHeaders(name, [value.encode("utf-8")])
    addresses = [str(recipient).encode("utf-8") for recipient in recipients]
    headers.setRawHeaders("Rcpt", addresses)
    if len(addresses) == 1:
        headers.setRawHeaders("Deliver-To", addresses)
    return headers


def _refused(reply: str, scan: RspamdScan, score: float, why: str) -> Refuse:
    """
    What rspamd wants for another reason than its score, a virus as a rule, is called
    otherwise: no recipient lifts it by letting in a sender.
    """
    text = scan.text if scan.refuses else ""
    if scan.forced:
        return attrs.evolve(refusal(reply, text, why), stage=FORCED)
    return refusal(reply, text, why, score)
