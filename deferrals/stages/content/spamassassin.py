"""
The content stage C{spamassassin}: asks spamd (protocol 1.5, C{SYMBOLS}).

One scan per message and SpamAssassin user: where all recipients have the same
one, or none, that is one scan.  Thresholds are applied here.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

import attrs
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.address import comparable
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, Seconds, checked, positive, template
from deferrals.model.verdict import ContentVerdict, Marks
from deferrals.stages.content.exchange import chunks, exchange
from deferrals.stages.content.scanner import OnError, Scanner
from deferrals.stages.content.scores import (
    DEFAULT_REPLY,
    ScoreLimits,
    ScoringStage,
    acceptance,
    decision,
    number,
    refusal,
    symbolsNamed,
)

_log = Logger(namespace="deferrals.stages.spamassassin")

_STATUS = re.compile(rb"SPAMD/[0-9.]+ +(\d{1,9}) +([^\r\n]*)")
_SPAM = re.compile(
    rb"^spam: *(true|yes|false|no) *; *(-?[0-9.]+) */ *(-?[0-9.]+) *\r?$", re.I | re.M
)
#: The length of an answer that does not say it: it ends with the connection.
_NEVER = 1 << 62

_LENGTH = re.compile(rb"^content-length: *(\d{1,9}) *\r?$", re.I | re.M)


def _userName(value: str) -> None:
    template(value, "address", "local", "domain")
    if not value.isprintable():
        raise ValueError("text without control characters")


@attrs.frozen
class SpamAssassinSettings:
    """
    @ivar socket: where spamd listens: a Twisted client endpoint string.
    @ivar timeout: for one scan.
    @ivar on_error: what it means that there is no scan: 451; accept, with a
        field in the copy that says so; or as if this stage were not there.
    @ivar user: whose rules spamd applies; C{{address}}, C{{local}} and
        C{{domain}} of the recipient may stand in it, in lower case: then there
        is a scan for each.  Empty: spamd's own.
    @ivar refuse_score: refuse from this score on; without it, never.
    @ivar mark_score: mark the copy from this score on; without it, where spamd
        says that it is spam.
    @ivar reply: what a recipient refuses with.
    @ivar add_headers: whether a copy says its score (C{X-Spam-Score}), and
        C{X-Spam: Yes} where it is marked.
    @ivar subject_tag: put in front of the Subject of a marked copy.
    @ivar junk: whether a marked copy is filed as junk.
    @ivar max_size: larger messages are accepted without a scan, with a field that
        says so (C{Deferrals-Unscanned}).
    @ivar concurrency: scans at once; spamd has C{--max-children} (5).
    """

    socket: str = "tcp:127.0.0.1:783"
    timeout: Seconds = attrs.field(default=Seconds(15.0), validator=checked(positive))
    on_error: OnError = "refuse-temporarily"
    user: str = attrs.field(default="", validator=checked(_userName))
    refuse_score: float | None = attrs.field(default=None, validator=checked(number))
    mark_score: float | None = attrs.field(default=None, validator=checked(number))
    reply: str = attrs.field(default=DEFAULT_REPLY, validator=checked(Reply.parseRefusal))
    add_headers: bool = True
    subject_tag: str = ""
    junk: bool = True
    max_size: Octets = attrs.field(default=Octets(512 << 10), validator=checked(positive))
    concurrency: int = attrs.field(default=5, validator=checked(positive))


@attrs.frozen
class SpamdScan:
    """
    What spamd said.

    @ivar score: for this user.
    @ivar spam: whether that is spam by this user's own threshold.
    @ivar symbols: the names of the rules that hit.
    """

    score: float
    spam: bool
    symbols: tuple[str, ...] = ()


@implementer(IContentStage)
class SpamAssassinStage(ScoringStage[str, SpamdScan]):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: SpamAssassinSettings, services: IServices) -> None:
        super().__init__(settings, Scanner("spamassassin", settings.socket, settings, services))
        self._settings = settings
        self._services = services
        self._endpoint = services.connect(settings.socket)

    def scanOf(self, recipient: Recipient) -> str:
        """
        @return: the user whose rules spamd applies.
        """
        own = recipient.own("spamassassin", "user")
        if own is not None:
            return str(own)
        address = recipient.address
        return self._settings.user.format(
            address=address.key, local=comparable(address.local), domain=address.domain
        )

    async def scan(
        self, message: IMessage, envelope: Envelope, key: str, recipients: Sequence[Recipient]
    ) -> SpamdScan:
        whole = self._services.view(message, envelope)
        answer = await exchange(self._endpoint, _request(whole, key), WholeAnswer())
        scan = parseAnswer(answer)
        _log.info(
            "{transaction}: score {score} for {user}: {symbols}",
            transaction=envelope.id,
            score=scan.score,
            user=key or "all users",
            symbols=symbolsNamed(scan.symbols),
        )
        return scan

    def scoreOf(self, scan: SpamdScan) -> float:
        return scan.score

    def decide(self, scan: SpamdScan, limits: ScoreLimits) -> ContentVerdict:
        settings = self._settings
        why = decision("spamassassin", scan.score, limits)
        if limits.refuse is not None and scan.score >= limits.refuse:
            return refusal(settings.reply, why=why, score=scan.score)
        marked = scan.spam if limits.mark is None else scan.score >= limits.mark
        return acceptance(settings, scan.score, marked, Marks(), why)


def _request(message: IMessage, user: str) -> Generator[bytes, None, None]:
    head = f"SYMBOLS SPAMC/1.5\r\nContent-length: {message.size}\r\n"
    if user:
        head += f"User: {user}\r\n"
    yield head.encode("utf-8") + b"\r\n"
    yield from chunks(message)


class WholeAnswer:
    """
    Whether spamd's answer is complete: each of its octets is looked at once,
    in whatever pieces it comes.
    """

    def __init__(self) -> None:
        self._sought = 0
        self._octets: int | None = None

    def __call__(self, answer: bytearray) -> bool:
        """
        @param answer: what there is of it; longer each time.
        """
        if self._octets is None:
            end = answer.find(b"\r\n\r\n", max(0, self._sought - 3))
            self._sought = len(answer)
            if end < 0:
                return False
            length = _LENGTH.search(answer, 0, end)
            self._octets = _NEVER if length is None else end + 4 + int(length[1])
        return len(answer) >= self._octets


def parseAnswer(answer: bytes) -> SpamdScan:
    """
    Read spamd's answer to C{SYMBOLS}.

    @raise StageError: it is an error, or nonsense.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    status, spam = _STATUS.match(head), _SPAM.search(head)
    if status is None or int(status[1]) != 0 or spam is None:
        raise StageError(f"spamd answered {head[:200].decode('utf-8', 'replace')!r}")
    try:
        score = float(spam[2])
    except ValueError:
        raise StageError(f"spamd gave the score {spam[2].decode()!r}") from None
    names = body.decode("ascii", "replace").replace(",", " ").split()
    return SpamdScan(score, spam[1].lower() in (b"true", b"yes"), tuple(names))
