"""
The stages that come with the server.
"""

from deferrals.interfaces import IContentStage, IDeliveryStage
from deferrals.stages.plugin import StagePlugin

match = StagePlugin(
    "match", IContentStage, "deferrals.stages.content.match", "MatchSettings", "MatchStage"
)
http = StagePlugin(
    "http", IContentStage, "deferrals.stages.content.http", "HTTPSettings", "HTTPStage"
)
maildir = StagePlugin(
    "maildir",
    IDeliveryStage,
    "deferrals.stages.delivery.maildir",
    "MaildirSettings",
    "MaildirDelivery",
)
discard = StagePlugin(
    "discard",
    IDeliveryStage,
    "deferrals.stages.delivery.discard",
    "DiscardSettings",
    "DiscardDelivery",
)
