"""
Large mail is taken at night only; by day it is refused for now, so that its
sender tries again.
"""

import time

import attrs
from zope.interface import implementer

from deferrals.interfaces import IContentStage
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, checked
from deferrals.model.verdict import ACCEPT, Refuse


def hour(value):
    if not 0 <= value <= 23:
        raise ValueError("an hour, 0 to 23")


@attrs.frozen
class Settings:
    larger_than: Octets
    from_hour: int = attrs.field(default=22, validator=checked(hour))
    to_hour: int = attrs.field(default=6, validator=checked(hour))


@implementer(IContentStage)
class QuietHours:
    def __init__(self, settings, services):
        self.settings = settings
        self.reactor = services.reactor

    def cohort(self, recipient):
        # The answer does not depend on the recipient.
        return None

    def judge(self, message, envelope, recipients):
        if message.size <= self.settings.larger_than or self.isNight():
            return ACCEPT
        return Refuse(Reply(450, "4.3.2", "large mail is taken at night, try again later"))

    def isNight(self):
        begin, end = self.settings.from_hour, self.settings.to_hour
        now = time.localtime(self.reactor.seconds()).tm_hour
        return begin <= now < end if begin < end else now >= begin or now < end
