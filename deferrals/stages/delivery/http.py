"""
Delivery into a web service: the message is POSTed, with the same request headers
as the content stage C{http} sends.

The status is the outcome, as L{deferrals.model.httpanswer} has it in a table;
where it means another attempt, not before what C{Retry-After} says.  What went
wrong in detail is for the log: a URL may have a secret in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from deferrals.deferreds import Semaphore, timeOfDay, withDeadline
from deferrals.interfaces import IBinaryDelivery, IMessage, IReportingDelivery, IServices
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.httpanswer import meaningOf, secondsOf
from deferrals.model.reply import Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.verdict import Delivered, Details, Failed, Outcome, Retry
from deferrals.stages.content.http import requestHeaders
from deferrals.stages.delivery.copies import Report, ReportingDelivery, deliverApart
from deferrals.stages.delivery.copy import Copy, CopyFile, byMarks, final, relayed
from deferrals.stages.web import WebClient, httpURL, shownURL

_log = Logger(namespace="deferrals.delivery")

R451_UNANSWERED = Reply(451, "4.4.1", "the service for this recipient does not answer")


@attrs.frozen
class HTTPDeliverySettings:
    """
    @ivar url: where the message is POSTed.
    @ivar timeout: for the whole request.
    @ivar request: C{"recipient"}: a request, and an outcome, for each
        recipient; C{"all"}: one request for all whose copies are the same.
    @ivar connections: requests under way at once; the next one waits.
    """

    url: str = attrs.field(validator=checked(httpURL))
    timeout: Seconds = attrs.field(default=Seconds(60), validator=checked(positive))
    request: Literal["recipient", "all"] = "recipient"
    connections: int = attrs.field(default=10, validator=checked(positive))


class _BodySource:
    """
    A copy that a request can read anew each time it is tried.
    """

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def open(self) -> CopyFile:
        return CopyFile(self._copy.chunks())


@implementer(IBinaryDelivery, IReportingDelivery)
class HTTPDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: HTTPDeliverySettings, services: IServices) -> None:
        self._settings = settings
        self._reactor = services.reactor
        self._hostname = services.hostname
        self._web = WebClient(services.reactor, settings.connections)
        self._slots = Semaphore(settings.connections)

    def destination(self, recipient: Recipient) -> str:
        return f"http {shownURL(self._settings.url)}"

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        isShared = self._settings.request == "all"

        async def request(group: Sequence[Addressee], _: Report) -> dict[Addressee, Outcome]:
            if isShared:
                copy = relayed(message, envelope, self._hostname, group, True)
            else:
                copy = final(message, envelope, self._hostname, group[0])
            return dict.fromkeys(group, await self._send(envelope, group, copy))

        groups = byMarks(recipients) if isShared else [[one] for one in recipients]
        return deliverApart(envelope, groups, request, report)

    async def _send(self, envelope: Envelope, group: Sequence[Addressee], copy: Copy) -> Outcome:
        """
        One request.  What fails here is its recipients' alone.
        """
        try:
            return await self._ask(envelope, group, copy)
        except CancelledError:
            raise
        except Exception as error:
            details = Details.ofError(error)
            _log.warn(
                "{transaction}: {url}: {error}",
                transaction=envelope.id,
                url=shownURL(self._settings.url),
                error=details.cause,
            )
            return Retry(R451_UNANSWERED, details=details)

    async def _ask(self, envelope: Envelope, group: Sequence[Addressee], copy: Copy) -> Outcome:
        headers = requestHeaders(envelope, group)
        await self._slots.acquire()
        try:
            status, _, answer = await withDeadline(
                self._reactor,
                self._settings.timeout,
                self._web.exchange,
                *("POST", self._settings.url, headers, _BodySource(copy), False),
            )
        finally:
            self._slots.release()
        after = (answer.getRawHeaders(b"retry-after") or [b""])[0].decode("latin-1")
        return outcomeOf(status, after, timeOfDay(self._reactor))


def outcomeOf(status: int, retryAfter: str, now: float) -> Outcome:
    """
    What an HTTP status comes to.

    @param retryAfter: the header's value (RFC 9110 §10.2.3); empty for none.
    @param now: seconds since the epoch.
    """
    reply, details = meaningOf(status), Details(f"HTTP status {status}")
    if reply.isPositive:
        return Delivered(reply, details=details)
    if reply.isPermanent:
        return Failed(reply, details=details)
    return Retry(reply, after=secondsOf(retryAfter, now), details=details)
