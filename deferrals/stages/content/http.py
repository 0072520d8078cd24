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
from deferrals.model.reply import R451_STAGE_FAILED, Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.addedfields import fitting
from deferrals.stages.remote import JSON, RemoteService
from deferrals.stages.web import fromJSON, httpURL, webClient

_log = Logger(namespace="deferrals.stages.http")

#: Requests under way at once.
CONCURRENCY = 64


@attrs.frozen
class HTTPSettings:
    """
    @ivar url: where the message is POSTed.
    @ivar timeout: for the whole request.
    @ivar on_error: what a failure means for the recipients asked about.
    @ivar cohort: C{"recipient"}: a request for each recipient; C{"all"}: one
        request for all of them, and one answer.
    """

    url: str = attrs.field(validator=checked(httpURL))
    timeout: Seconds = attrs.field(default=Seconds(30.0), validator=checked(positive))
    on_error: Literal["refuse-temporarily", "accept"] = "refuse-temporarily"
    cohort: Literal["recipient", "all"] = "recipient"


def requestHeaders(
    envelope: Envelope, recipients: Sequence[Recipient] | Sequence[Addressee]
) -> Headers:
    """
    What a service is told beside the message.

    @param recipients: those asked about.
    """
    headers = Headers()
    headers.setRawHeaders("Content-Type", ["message/rfc822"])
    headers.setRawHeaders("Deferrals-Transaction", [envelope.id])
    headers.setRawHeaders("Deferrals-Mail-From", [envelope.senderText])
    headers.setRawHeaders("Deferrals-Client-Address", [envelope.client.address])
    headers.setRawHeaders("Deferrals-Helo", [envelope.client.helo])
    if envelope.client.user is not None:
        headers.setRawHeaders("Deferrals-User", [envelope.client.user])
    headers.setRawHeaders("Deferrals-Rcpt-To", [str(recipient) for recipient in recipients])
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
            lambda: RemoteService(f"http {settings.url}", services, CONCURRENCY),
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
        except Exception as error:
            _log.warn(
                "{transaction}: {url}: {error}, so {on_error}",
                transaction=envelope.id,
                url=self._settings.url,
                error=f"{type(error).__name__}: {error}",
                on_error=self._settings.on_error,
            )
        return ACCEPT if self._settings.on_error == "accept" else Refuse(R451_STAGE_FAILED)

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
    named = {_key(address): verdict for address, verdict in verdicts.items()}
    default = answer.get("default")
    found = [
        _read(named.get(recipient.address.key, default), recipient) for recipient in recipients
    ]
    if any(verdict != found[0] for verdict in found):
        raise StageError("different verdicts for recipients that are configured as one cohort")
    return found[0]


def _key(address: str) -> str:
    try:
        return Mailbox.parse(address).key
    except AddressError:
        return address


def _read(verdict: JSON, recipient: Recipient) -> ContentVerdict:
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
        return Refuse(Reply.parseRefusal(reply if isinstance(reply, str) else ""))
    except ValueError:
        raise StageError(f"an invalid reply for <{recipient}>") from None
