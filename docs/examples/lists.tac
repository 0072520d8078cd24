from twisted.application.service import Application
from twisted.internet import reactor, task
from zope.interface import implementer

from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Defer, Delivered, Refuse
from deferrals.server import MailServer

BANNED = {"kids@lists.test": b"viagra", "men@lists.test": None}


@implementer(IEnvelopeStage)
class Lists:
    async def judgeRecipient(self, envelope, recipient):
        return Defer() if str(recipient) in BANNED else None  # no stage says yes: 550 5.7.1


@implementer(IContentStage)
class Words:
    def cohort(self, recipient):
        return BANNED[str(recipient)]

    async def judge(self, message, envelope, recipients):
        await task.deferLater(reactor, 0.01)  # a database, a scanner
        word = BANNED[str(recipients[0])]
        bad = word is not None and word in message.open().read()
        return Refuse(Reply(550, "5.7.1", "not on this list")) if bad else ACCEPT


@implementer(IDeliveryStage)
class Archive:
    def destination(self, recipient):
        return "archive"

    async def deliver(self, message, envelope, recipients):
        print("archived", envelope.id, [str(one) for one in recipients])
        return {one: Delivered() for one in recipients}


application = Application("lists")
stages = {"envelope": Lists(), "content": [Words()], "delivery": Archive()}
server = MailServer(reactor, hostname="mx.test", spool="spool", **stages)
server.listenOn("tcp:25012:interface=127.0.0.1")
server.setServiceParent(application)
