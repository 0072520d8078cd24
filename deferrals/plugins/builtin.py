"""
The stages and tables that come with the server.
"""

from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.plugins.finding import OutwardPlugin, StagePlugin, TablePlugin

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
authenticate = StagePlugin(
    "authenticate",
    IContentStage,
    "deferrals.stages.content.authenticate",
    "AuthenticateSettings",
    "AuthenticateStage",
)
milter = StagePlugin(
    "milter", IContentStage, "deferrals.stages.milter.stage", "MilterSettings", "MilterStage"
)
milterCheck = StagePlugin(
    "milter", IEnvelopeStage, "deferrals.stages.milter.stage", "MilterCheckSettings", "MilterCheck"
)
sieve = StagePlugin(
    "sieve", IContentStage, "deferrals.stages.content.sieve", "SieveSettings", "SieveStage"
)
users = StagePlugin(
    "users", IEnvelopeStage, "deferrals.stages.envelope.users", "UsersSettings", "UsersStage"
)
aliases = StagePlugin(
    "aliases",
    IEnvelopeStage,
    "deferrals.stages.envelope.aliases",
    "AliasesSettings",
    "AliasesStage",
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
forward = OutwardPlugin(
    "forward",
    IDeliveryStage,
    "deferrals.stages.delivery.forward",
    "ForwardSettings",
    "ForwardDelivery",
)
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
dnsbl = StagePlugin(
    "dnsbl", IEnvelopeStage, "deferrals.stages.envelope.dnsbl", "DNSBLSettings", "DNSBLStage"
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
httpTable = TablePlugin("http", "deferrals.stages.tables.http", "HTTPTableSettings", "HTTPTable")
fileTable = TablePlugin("file", "deferrals.stages.tables.file", "FileTableSettings", "FileTable")
sqliteTable = TablePlugin(
    "sqlite", "deferrals.stages.tables.sqlite", "SqliteTableSettings", "SqliteTable"
)
postgresqlTable = TablePlugin(
    "postgresql",
    "deferrals.stages.tables.postgresql",
    "PostgresqlTableSettings",
    "PostgresqlTable",
)
dovecotTable = TablePlugin(
    "dovecot", "deferrals.stages.tables.dovecot", "DovecotTableSettings", "DovecotTable"
)
