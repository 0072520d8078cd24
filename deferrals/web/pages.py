"""
All pages, put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource

from deferrals.model.status import Status
from deferrals.web.answers import StaticFiles
from deferrals.web.asking import Ask
from deferrals.web.looks import Looks
from deferrals.web.messagepage import MessagePages
from deferrals.web.now import NowPage
from deferrals.web.policypage import Policies, PolicyPages
from deferrals.web.queuepage import QueueChanges, QueuePage
from deferrals.web.searchpage import SearchPage
from deferrals.web.site import hold
from deferrals.web.streaming import EventsAnswer, EventStream
from deferrals.web.visitors import LoginPage, LogoutPage, Visitors


@attrs.frozen(kw_only=True)
class PageParts:
    """
    What pages show, and to whom.

    @ivar ask: asks the server.
    @ivar status: what was counted.
    @ivar looks: what was counted before.
    @ivar stream: what happens.
    @ivar changes: what operators do.
    @ivar visitors: who looks.
    @ivar policies: those of the configuration.
    """

    ask: Ask
    status: Callable[[], Status]
    looks: Looks
    stream: EventStream
    changes: QueueChanges
    visitors: Visitors
    policies: Policies


def pagesOf(parts: PageParts, clock: IReactorTime) -> Mapping[bytes, Resource]:
    """
    @return: all of them, by the first part of their path.
    """
    common = clock, parts.visitors
    return {
        b"": NowPage(*common, parts.ask, parts.looks),
        b"queue": QueuePage(*common, parts.ask, parts.changes),
        b"message": MessagePages(*common, parts.ask),
        b"search": SearchPage(*common, parts.ask),
        b"policy": PolicyPages(*common, parts.ask, parts.policies, parts.status),
        b"events": EventsAnswer(parts.stream, parts.visitors, hold),
        b"login": LoginPage(*common),
        b"logout": LogoutPage(*common),
        b"static": StaticFiles(),
    }
