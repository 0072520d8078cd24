"""
What C{mypy --strict} with mypy-zope refuses: each line that ends in "error" has one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from zope.interface import implementer

from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import ACCEPT, ContentVerdict, Refuse
from deferrals.server import MailServer


@implementer(IContentStage)
class WithoutCohort:  # error
    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        return ACCEPT


@implementer(IContentStage)
class WrongResult:
    def cohort(self, recipient: Recipient) -> Hashable:
        return None

    def judge(  # error
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> str:
        return "yes"


@implementer(IContentStage)
class WrongArguments:
    def cohort(self, recipient: Recipient) -> Hashable:
        return None

    def judge(self, message: IMessage) -> ContentVerdict:  # error
        return ACCEPT


def wrong(services: IServices) -> None:
    Refuse("550 no")  # error
    services.inThread(len, 5)  # error
    MailServer(None, hostname="mx.test", envelope=[], delivery=5)  # error
