"""
Real senders that speak neither DEFERRALS nor PRDR nor EXDATA, against the default:
what three recipients of three cohorts get, and how many attempts that costs.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

import attrs

from deferrals.stages.content.match.stage import GTUBE
from tests.integration import programs
from tests.integration.courier import Courier
from tests.integration.daemons import Exim, OpenSMTPD, Postfix
from tests.integration.programs import Caller, Program
from tests.integration.queues import DMA, Nullmailer, Sendmail
from tests.integration.support import IntegrationCase, message, until
from tests.integration.wire import Wire
from tests.zone import Zone

CONFIG = """
hostname = "mx.example.net"
dns = ["{dns}"]

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
{listener}

[policies.open]
envelope = "accept"

[policies.lover]
content = [ {{ use = "match", rules = [ {{ test = "eicar" }} ] }} ]

[policies.fighter]
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 spam is not wanted" }},
] }} ]

[policies.waiter]
content = [ {{ use = "http", url = "{url}" }} ]

[[recipients]]
match = "*@client.test"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

#: Each case has recipients of its own, so that their mail can be counted.
_RECIPIENT = """
[[recipients]]
match = "{local}-{case}@example.net"
policy = "{local}"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

#: The one that does not accept is named in the middle, first, and last.
CASES = {
    "agree": ("open", "lover", "fighter"),
    "refuse": ("lover", "fighter", "open"),
    "wait": ("waiter", "open", "lover"),
    "both": ("fighter", "waiter", "open"),
}


class Kind(enum.Enum):
    """
    What a sender does when some recipients are refused for now, and how many
    attempts those who accept and the one that refuses may then need at most.
    """

    APART = "it goes on, and comes again with those that are left"
    SINGLE = "each recipient has a transaction of its own"
    WHOLE = "it gives up, and comes again with all"
    AGAIN = "it goes on, and comes again with all"
    SILENT = "it goes on, and never comes again with those that are left"


#: At most, in the case C{refuse}: attempts of those who accept, of who refuses.
BOUNDS = {
    Kind.APART: (2, 3),
    Kind.SINGLE: (1, 1),
    Kind.WHOLE: (5, 5),
    Kind.AGAIN: (4, 4),
    Kind.SILENT: (2, 2),
}

#: At most, of one that waits, once it accepts.
THEN = 3


class Sender(Protocol):
    """
    A program that has a message to send.
    """

    def send(self, data: bytes, sender: str, *recipients: str) -> None: ...

    def flush(self) -> None: ...

    def log(self) -> str: ...


class Judge:
    """
    Decides for C{waiter}: not now, until it is told to accept.
    """

    def __init__(self) -> None:
        self.accepts = False
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                refusal = {"accept": False, "reply": "450 4.7.1 not now"}
                verdict = {"accept": True} if judge.accepts else refusal
                body = json.dumps({"default": verdict}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@attrs.frozen
class Row:
    """
    One sender.

    @ivar start: makes it, for a test and the port on loopback that it sends to.
    @ivar listener: further lines of our listener's table.
    @ivar forAll: whether it is taken for one that takes a refusal for that of all
        it named in the connection: then who refuses for good waits for who refuses
        for now.  Exim is one; OpenSMTPD and Courier look the same where they come
        again so soon that they still have their connection.
    """

    kind: Kind
    start: Callable[[IntegrationCase, Wire], Sender]
    listener: str = ""
    forAll: bool = False


class PlainSenderTests(IntegrationCase):
    """
    What each of them has to come to.
    """

    def setUp(self) -> None:
        self.judge = Judge()
        self.addCleanup(self.judge.close)

    def start(self, row: Row) -> None:
        zone = Zone({("client.test", "TXT"): ["v=spf1 ip4:127.0.0.1 -all"]})
        self.addCleanup(zone.close)
        dns = "{}:{}".format(*zone.address)
        config = CONFIG.format(dns=dns, url=self.judge.url, listener=row.listener)
        for case, locals_ in CASES.items():
            config += "".join(_RECIPIENT.format(local=local, case=case) for local in locals_)
        self.ours = self.server(config)
        self.wire = Wire(self.ours.port)
        self.addCleanup(self.wire.close)
        self.kind, self.forAll = row.kind, row.forAll
        self.sender = row.start(self, self.wire)

    # What was sent, and what became of it.

    def bring(self, case: str, text: str = GTUBE) -> None:
        """
        The message of this case, for its three recipients.
        """
        self.case, self.path = case, f"{case}@client.test"
        self.first = self.wire.connections()
        data = message(text, Message_ID=f"<{case}@client.test>")
        self.sender.send(data, self.path, *map(self.address, CASES[case]))

    def address(self, local: str) -> str:
        return f"{local}-{self.case}@example.net"

    def copies(self, local: str) -> int:
        return len(self.ours.mail(f"{local}-{self.case}"))

    def named(self, local: str) -> int:
        return self.wire.named(self.address(local))

    def have(self, *locals_: str) -> bool:
        return all(self.copies(local) for local in locals_)

    def said(self) -> str:
        """
        What the sender has been told: by its program, or by mail.
        """
        if isinstance(self.sender, Caller):
            return self.sender.log()
        mails = [*self.ours.mail(self.case), *_own(self.sender)]
        return "\n".join(mail.decode("utf-8", "replace") for mail in mails)

    def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """
        It comes again, until it is so.
        """
        before = 0

        def came() -> bool:
            return condition() or (self.attempts() > before and self.isSettled())

        for _ in range(15):
            # It may have to wait for its turn, and then be asked again.
            with contextlib.suppress(AssertionError):
                until(came, what, 10)
            if condition():
                return
            before = self.attempts()
            self.sender.flush()
        self.fail(f"{what}\n{self.story()}")

    def isSettled(self) -> bool:
        """
        Whether all has been answered, and what was accepted has been delivered.
        """
        log = self.ours.log
        accepted = sum(map(int, re.findall(r", (\d+) of \d+ accepted: 250 ", log)))
        return self.wire.isIdle() and log.count("> delivered by ") >= accepted

    def attempts(self) -> int:
        return self.wire.attempts(self.path)

    def story(self) -> str:
        counts = {local: (self.named(local), self.copies(local)) for local in CASES[self.case]}
        return f"{counts}\n{self.wire.dialogue()}\n{self.sender.log()}\n{self.said()}"

    def atMost(self, bound: int, *locals_: str) -> None:
        for local in locals_:
            self.assertLessEqual(self.named(local), bound, f"{local}\n{self.story()}")

    def oneEach(self, *locals_: str) -> None:
        most = 2 if self.kind is Kind.AGAIN else 1  # a new Message-ID: it only looks the same
        for local in locals_:
            self.assertIn(self.copies(local), range(1, most + 1), f"{local}\n{self.story()}")

    # The cases.

    def agree(self) -> None:
        """
        All accept: one attempt, one copy each.
        """
        self.bring("agree", "hello")
        locals_ = CASES["agree"]
        with contextlib.suppress(AssertionError):  # the counts say more
            until(lambda: self.have(*locals_), "copies")
        self.sender.flush()
        self.assertEqual([self.copies(local) for local in locals_], [1, 1, 1], self.story())
        self.assertEqual([self.named(local) for local in locals_], [1, 1, 1], self.story())
        expected = len(locals_) if self.kind is Kind.SINGLE else 1
        self.assertEqual(self.attempts(), expected, self.story())
        self.report()

    def refuse(self) -> None:
        """
        One refuses for good: the others have it, and the sender is told who does
        not; or it makes one thing of it, and is told one thing.
        """
        self.bring("refuse")
        if self.kind is Kind.WHOLE:
            self.eventually(self.toldAll, "one refusal for all")
            self.assertFalse(self.have("lover") or self.have("open"), self.story())
        else:
            self.eventually(
                lambda: self.have("lover", "open") and self.told(), "copies and a refusal"
            )
            self.oneEach("lover", "open")
        if not isinstance(self.sender, Caller) and self.kind is not Kind.WHOLE:
            for local in ("lover", "open"):
                self.assertNotIn(self.address(local), self.said())
        self.assertEqual(self.copies("fighter"), 0)
        accepts, refuses = BOUNDS[self.kind]
        self.atMost(accepts, "lover", "open")
        self.atMost(refuses, "fighter")
        self.report()

    def told(self) -> bool:
        """
        Whether its sender knows who refuses.
        """
        if isinstance(self.sender, Caller) and not self.sender.isOver:
            return False
        return self.address("fighter") in self.said()

    def toldAll(self) -> bool:
        """
        Whether its sender knows that no recipient has it, and because of whom.
        """
        why = re.escape(self.address("fighter")) + r"> refuses it for good \(spam is not wanted\)"
        found = re.search(rf"{why}; no\s+recipient\s+has\s+it\b(?! yet)", self.said())
        return found is not None and self.told()

    def wait(self) -> None:
        """
        One refuses for now: the others have it, and it has it when it accepts; or
        all have to wait for that.
        """
        self.judge.accepts = False
        self.bring("wait")
        if self.kind is Kind.WHOLE:
            self.eventually(lambda: self.attempts() >= 4, "four attempts")
            self.assertFalse(self.have("lover") or self.have("open"), self.story())
        else:
            self.eventually(lambda: self.have("lover", "open"), "copies")
            self.atMost(2, "lover", "open")
        self.assertEqual(self.copies("waiter"), 0)
        before = self.named("waiter")
        self.judge.accepts = True
        if self.kind is not Kind.SILENT:
            self.eventually(lambda: self.have(*CASES["wait"]), "all copies")
            self.oneEach("waiter")
            self.atMost(before + THEN, "waiter")
        self.oneEach("lover", "open")
        self.assertFalse(self.wire.refused(self.first), self.story())
        self.report()

    def both(self) -> None:
        """
        One accepts, one refuses for good and one for now: neither waits for the
        last, if the sender does not take one refusal for that of all it named.
        """
        self.judge.accepts = False
        self.bring("both")
        if self.kind is Kind.WHOLE:
            self.eventually(lambda: self.attempts() >= 4, "four attempts")
            self.assertFalse(self.wire.refused(self.first), self.story())
        else:
            self.eventually(lambda: self.have("open"), "a copy")
            self.atMost(2, "open")
            if not self.forAll:
                self.eventually(self.told, "a refusal")
                self.atMost(4, "fighter")
        before = self.named("waiter")
        self.judge.accepts = True
        self.eventually(self.decided, "all answers")
        self.assertEqual(self.copies("fighter"), 0)
        self.assertLessEqual(self.named("waiter"), before + THEN, self.story())
        self.report()

    def decided(self) -> bool:
        """
        Whether each has its answer.
        """
        if self.kind is Kind.WHOLE:
            return self.toldAll() and not self.have("open") and not self.have("waiter")
        return self.have("open", "waiter") and self.told()

    def report(self) -> None:
        """
        The figures for docs/senders.md.
        """
        path = os.environ.get("DEFERRALS_FIGURES")
        if path:
            figures = {local: (self.named(local), self.copies(local)) for local in CASES[self.case]}
            line = (self.id().rpartition("_")[2], self.case, self.attempts(), figures)
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n{self.sender.log() if self.case != 'agree' else ''}\n")


def _own(sender: Sender) -> list[bytes]:
    """
    The notices that a sender delivers itself.
    """
    if not isinstance(sender, Exim):
        return []
    try:
        with open(os.path.join(sender.directory, "spool", "bounces"), "rb") as file:
            return [file.read()]
    except FileNotFoundError:
        return []


class _Courier(Courier):
    """
    It comes again by itself after a second.
    """

    def flush(self) -> None:
        pass


def _queue(start: Callable[[IntegrationCase, int], Sender]) -> Callable[..., Sender]:
    return lambda case, wire: start(case, wire.port)


def _exim(case: IntegrationCase, wire: Wire) -> Sender:
    return Exim(case, f"127.0.0.1::{wire.port}", prdr=False)


def _postfix(case: IntegrationCase, wire: Wire) -> Sender:
    return Postfix(case, f"smtp:[127.0.0.1]:{wire.port}")


def _calls(kind: Kind, program: Program) -> Row:
    return Row(kind, lambda case, wire: Caller(case, program, wire))


SENDERS = {
    "exim": Row(Kind.APART, _exim, forAll=True),
    "eximWithoutChunking": Row(Kind.APART, _exim, 'withhold = ["CHUNKING"]', True),
    "postfix": Row(Kind.APART, _postfix),
    "opensmtpd": Row(Kind.APART, _queue(OpenSMTPD), forAll=True),
    "courier": Row(Kind.APART, _queue(_Courier), forAll=True),
    "sendmail": Row(Kind.APART, _queue(Sendmail)),
    "nullmailer": Row(Kind.WHOLE, _queue(Nullmailer)),
    "dma": Row(Kind.SINGLE, _queue(DMA)),
    "smtplib": _calls(Kind.APART, programs.SMTPLIB),
    "aiosmtplib": _calls(Kind.APART, programs.AIOSMTPLIB),
    "twisted": _calls(Kind.APART, programs.TWISTED),
    "nodemailer": _calls(Kind.APART, programs.NODEMAILER),
    "django": _calls(Kind.SILENT, programs.DJANGO),
    "swaks": _calls(Kind.SILENT, programs.SWAKS),
    "phpmailer": _calls(Kind.AGAIN, programs.PHPMAILER),
    "symfony": _calls(Kind.WHOLE, programs.SYMFONY),
    "emailjs": _calls(Kind.WHOLE, programs.EMAILJS),
    "rubySmtp": _calls(Kind.WHOLE, programs.RUBY_SMTP),
    "rubyMail": _calls(Kind.WHOLE, programs.RUBY_MAIL),
    "perlSmtp": _calls(Kind.WHOLE, programs.PERL_SMTP),
    "mimeLite": _calls(Kind.WHOLE, programs.MIME_LITE),
    "emailSender": _calls(Kind.WHOLE, programs.EMAIL_SENDER),
    "luaSocket": _calls(Kind.WHOLE, programs.LUASOCKET),
    "curl": _calls(Kind.WHOLE, programs.CURL),
    "esmtp": _calls(Kind.WHOLE, programs.ESMTP),
    "msmtp": _calls(Kind.WHOLE, programs.MSMTP),
    "mutt": _calls(Kind.WHOLE, programs.MUTT),
    "sNail": _calls(Kind.WHOLE, programs.SNAIL),
}


def _test(name: str, row: Row) -> Callable[[PlainSenderTests], None]:
    def test(self: PlainSenderTests) -> None:
        self.start(row)
        self.agree()
        self.refuse()
        self.wait()
        if not isinstance(self.sender, Caller):
            self.both()

    test.__name__ = f"test_{name}"
    test.__doc__ = f"{name}: {row.kind.value}."
    return test


for _name, _row in SENDERS.items():
    setattr(PlainSenderTests, f"test_{_name}", _test(_name, _row))
