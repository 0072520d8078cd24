"""
What C{mypy --strict} with mypy-zope accepts: checked against the installed wheel.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import assert_type

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from deferrals.client import Result, sendMessage
from deferrals.interfaces import IContentStage, IDeliveryStage, IMessage, IServices
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.schedule import Schedule
from deferrals.model.settings import Octets, Seconds
from deferrals.model.verdict import ACCEPT, ContentVerdict
from deferrals.server import Limits, ListenerSettings, MailServer, buildStage


@implementer(IContentStage)
class ByValue:
    def cohort(self, recipient: Recipient) -> Hashable:
        return None

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        return ACCEPT


@implementer(IContentStage)
class ByCoroutine:
    def cohort(self, recipient: Recipient) -> Hashable:
        return str(recipient)

    async def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        assert_type(message.fields(), list[tuple[str, str]])
        return ACCEPT


@implementer(IContentStage)
class ByDeferred:
    def cohort(self, recipient: Recipient) -> Hashable:
        return ""

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        verdict: ContentVerdict = ACCEPT
        return succeed(verdict)


def services(given: IServices) -> None:
    assert_type(given.inThread(int, "5"), Deferred[int])
    assert_type(buildStage(IDeliveryStage, "discard", given), IDeliveryStage)


def client(reactor: IReactorTime, endpoint: IStreamClientEndpoint) -> None:
    assert_type(sendMessage(reactor, endpoint, "", ["a@b.test"], b"x\r\n"), Deferred[Result])


@attrs.frozen
class Mine:
    largest: Octets
    patience: Seconds = 5


def numbers() -> None:
    Mine(100, 2.5)
    Schedule(retry=(60.0, 300.0), expire=86400, warn=0)
    ListenerSettings(
        greet_delay=0.5, limits=Limits(message_size=10 << 20, command_timeout=60, data_rate=100)
    )


def server(reactor: IReactorTime, delivery: IDeliveryStage, stage: IContentStage) -> MailServer:
    return MailServer(
        reactor, hostname="mx.test", envelope=[], content=[ByValue(), stage], delivery=delivery
    )
