"""
The content stage C{http}: a service of yours decides, over HTTP.

The raw message is POSTed with request headers that name the recipients asked about; the
answer is JSON with a verdict for each of them (the design's public format, in
C{docs/stages/http}).  Each recipient is a cohort of its own unless the
configuration says that all are one.

On an error (another status, no JSON, a verdict that is missing or no verdict, a
timeout, no connection) C{on_error} decides, for the recipients asked about.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Hashable, Sequence
from typing import Literal

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.http_headers import Headers
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.reply import R451_STAGE_FAILED, Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.addedfields import fitting
from deferrals.stages.content.scanner import TooLargeMeans, tooLarge
from deferrals.stages.remote import RemoteService, TooLarge
from deferrals.stages.web import fromJSON, httpURL, shownURL, webClient

_log = Logger(namespace="deferrals.stages.http")

#: Requests under way at once.
CONCURRENCY = 64

#: Some libraries put a header that is there several times into one, with commas.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).translate({ord("%"): None, ord(","): None})


@attrs.frozen
class HTTPSettings:
    """
    @ivar url: where the message is POSTed.
    @ivar timeout: for the whole request.
    @ivar on_error: what a failure means for the recipients asked about.
    @ivar too_large: what it means that the service answers 413: accept; accept, with
        a field that says so (C{Deferrals-Unscanned}); or refuse.
    @ivar cohort: C{"recipient"}: a request for each recipient; C{"all"}: one
        request for all of them, and one answer.
    """

    url: str = attrs.field(validator=checked(httpURL))
    timeout: Seconds = attrs.field(default=Seconds(30.0), validator=checked(positive))
    on_error: Literal["refuse-temporarily", "accept"] = "refuse-temporarily"
    too_large: TooLargeMeans = "mark"
    cohort: Literal["recipient", "all"] = "recipient"


def headerText(text: str) -> str:
    """
    Text in a request header: printable ASCII as it is, but for percent sign and comma;
    these and all else as the percent-encoded octets of UTF-8 (RFC 3986 §2.1).  HTTP's
    headers have no encoding of their own.
    """
    return urllib.parse.quote(text, safe=_PLAIN, errors="replace")


def mailboxes(
    recipients: Sequence[Recipient] | Sequence[Addressee],
) -> dict[str, Mailbox]:
    """
    One address for each mailbox, by what its spellings have in common.
    """
    found: dict[str, Mailbox] = {}
    for one in recipients:
        address = one.recipient.address if isinstance(one, Addressee) else one.address
        found.setdefault(address.key, address)
    return found


def requestHeaders(
    envelope: Envelope, recipients: Sequence[Recipient] | Sequence[Addressee]
) -> Headers:
    """
    What a service is told beside the message.

    @param recipients: those asked about; each mailbox is named once.
    """
    headers = Headers()
    headers.setRawHeaders("Content-Type", ["message/rfc822"])
    said = {
        "Deferrals-Transaction": envelope.uniqueId,
        "Deferrals-Mail-From": envelope.senderText,
        "Deferrals-Client-Address": envelope.client.address,
        "Deferrals-Helo": envelope.client.helo,
        "Deferrals-User": envelope.client.user,
    }
    for name, value in said.items():
        if value is not None:
            headers.setRawHeaders(name, [headerText(value)])
    named = [headerText(str(mailbox)) for mailbox in mailboxes(recipients).values()]
    headers.setRawHeaders("Deferrals-Rcpt-To", named)
    return headers


@implementer(IContentStage)
class HTTPStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: HTTPSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._service = services.common(
            ("http", settings.url),
            lambda: RemoteService(f"http {shownURL(settings.url)}", services, CONCURRENCY),
        )
        self._web = webClient(services, CONCURRENCY)

    def cohort(self, recipient: Recipient) -> Hashable:
        return None if self._settings.cohort == "all" else recipient.address.key

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        return Deferred.fromCoroutine(self._judge(message, envelope, recipients))

    async def _judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        try:
            answer = await self._service.ask(
                self._settings.timeout, self._ask, message, envelope, recipients
            )
            return _verdict(answer, recipients)
        except CancelledError:
            raise
        except TooLarge:
            return tooLarge("http", self._settings.too_large)
        except Exception as error:
            _log.warn(
                "{transaction}: {url}: {error}, so {on_error}",
                transaction=envelope.id,
                url=shownURL(self._settings.url),
                error=f"{type(error).__name__}: {error}",
                on_error=self._settings.on_error,
            )
        onError = self._settings.on_error
        why = f"http: no verdict, on_error {onError}"
        return Accept(why=why) if onError == "accept" else Refuse(R451_STAGE_FAILED, why=why)

    async def _ask(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> JSON:
        headers = requestHeaders(envelope, recipients)
        whole = self._services.view(message, envelope)
        answer = await self._web.request("POST", self._settings.url, headers, whole)
        return fromJSON(*answer)


def _verdict(answer: JSON, recipients: Sequence[Recipient]) -> ContentVerdict:
    """
    The one verdict of the recipients asked about.

    @raise StageError: there is none, or there are several.
    """
    verdicts = answer.get("verdicts", {}) if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(verdicts, dict):
        raise StageError("the answer is no object with verdicts")
    asked = mailboxes(recipients)
    named = _named(verdicts, asked)
    default = answer.get("default")
    found = [_read(named.get(key, default), address) for key, address in asked.items()]
    if any(verdict != found[0] for verdict in found):
        raise StageError("different verdicts for recipients that are configured as one cohort")
    return found[0]


def _named(verdicts: dict[str, JSON], asked: dict[str, Mailbox]) -> dict[str, JSON]:
    """
    Verdicts by mailbox.  A service may name it as it stood in the request, or as it
    is when that is decoded.

    @raise StageError: one mailbox has two, or it cannot be told whose one is.
    """
    said = {headerText(str(address)): key for key, address in asked.items()}
    named: dict[str, JSON] = {}
    for text, verdict in verdicts.items():
        decoded = _key(text)
        key = said.get(text, decoded)
        if key != decoded and decoded in asked:
            raise StageError(f"<{text[:300]}> is one mailbox, and decoded another one")
        if key in named:
            raise StageError(f"two verdicts for <{text[:300]}>")
        named[key] = verdict
    return named


def _key(address: str) -> str:
    try:
        return Mailbox.parse(address).key
    except AddressError:
        return address


def _read(verdict: JSON, recipient: Mailbox) -> ContentVerdict:
    if not isinstance(verdict, dict) or not isinstance(verdict.get("accept"), bool):
        raise StageError(f"no verdict for <{recipient}>")
    if verdict["accept"]:
        headers = verdict.get("headers", {})
        if not isinstance(headers, dict):
            raise StageError("headers that are no object of strings")
        fields = tuple((name, text) for name, text in headers.items() if isinstance(text, str))
        if len(fields) < len(headers):
            raise StageError("headers that are no object of strings")
        if len(fitting(fields)) < len(fields):
            raise StageError(f"headers that are too many, or too long, for <{recipient}>")
        return Accept(Marks(fields)) if fields else ACCEPT
    reply = verdict.get("reply")
    try:
        return Refuse(Reply.parseRefusal(reply if isinstance(reply, str) else ""), why="http")
    except ValueError:
        raise StageError(f"an invalid reply for <{recipient}>") from None
