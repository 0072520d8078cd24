"""
The stages that come with the server.
"""

from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.plugins.finding import OutwardPlugin, StagePlugin

match = StagePlugin(
    "match", IContentStage, "deferrals.stages.content.match.stage", "MatchSettings", "MatchStage"
)
http = StagePlugin(
    "http", IContentStage, "deferrals.stages.content.http", "HTTPSettings", "HTTPStage"
)
rspamd = StagePlugin(
    "rspamd", IContentStage, "deferrals.stages.content.rspamd", "RspamdSettings", "RspamdStage"
)
spamassassin = StagePlugin(
    "spamassassin",
    IContentStage,
    "deferrals.stages.content.spamassassin",
    "SpamAssassinSettings",
    "SpamAssassinStage",
)
clamav = StagePlugin(
    "clamav", IContentStage, "deferrals.stages.content.clamav", "ClamAVSettings", "ClamAVStage"
)
users = StagePlugin(
    "users", IEnvelopeStage, "deferrals.stages.envelope.users", "UsersSettings", "UsersStage"
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
lmtp = StagePlugin(
    "lmtp", IDeliveryStage, "deferrals.stages.delivery.lmtp", "LMTPSettings", "LMTPDelivery"
)
smtp = OutwardPlugin(
    "smtp",
    IDeliveryStage,
    "deferrals.stages.delivery.smtp",
    "SMTPSettings",
    "SMTPDelivery",
)
mx = OutwardPlugin("mx", IDeliveryStage, "deferrals.stages.delivery.mx", "MXSettings", "MXDelivery")
file = StagePlugin(
    "file", IDeliveryStage, "deferrals.stages.delivery.file", "FileSettings", "FileDelivery"
)
callout = StagePlugin(
    "callout",
    IEnvelopeStage,
    "deferrals.stages.envelope.callout",
    "CalloutSettings",
    "CalloutStage",
)
httpDelivery = StagePlugin(
    "http",
    IDeliveryStage,
    "deferrals.stages.delivery.http",
    "HTTPDeliverySettings",
    "HTTPDelivery",
)
pipe = StagePlugin(
    "pipe", IDeliveryStage, "deferrals.stages.delivery.pipe", "PipeSettings", "PipeDelivery"
)
