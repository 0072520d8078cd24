from quiet_hours import QuietHours, Settings
from twisted.plugin import IPlugin
from zope.interface import implementer

from deferrals.interfaces import IContentStage, IStagePlugin


@implementer(IStagePlugin, IPlugin)
class QuietHoursPlugin:
    name = "quiet-hours"
    stage = IContentStage
    settings = Settings

    def build(self, settings, services):
        return QuietHours(settings, services)


quietHours = QuietHoursPlugin()
