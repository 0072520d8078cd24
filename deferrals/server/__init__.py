"""
The server for programs that embed it: SMTP, submission and LMTP with PRDR and
DEFERRALS, in front of stages that the program writes, or has built by name.

L{MailServer} is a Twisted service.  What is imported from here is public;
the modules below are not.
"""

from deferrals.model.limits import Limits
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Mixed
from deferrals.server.building import buildStage
from deferrals.server.mailserver import MailServer
from deferrals.server.services import Services
from deferrals.stages.envelope.ownsenders import Senders
from deferrals.stages.envelope.submission import SubmissionSettings

__all__ = [
    "Limits",
    "ListenerSettings",
    "MailServer",
    "Mixed",
    "Senders",
    "Services",
    "SubmissionSettings",
    "buildStage",
]
