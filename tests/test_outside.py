"""
Where text from outside goes: each character that acts or hides is put into each
field that a stranger fills, and looked for in all that people read.
"""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import io
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.cli import _show, _table
from deferrals.client import Result
from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.answers import Answer
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form
from deferrals.model.reply import Reply
from deferrals.model.text import cleaned
from deferrals.model.verdict import ACCEPT, Accept, Defer, Delivered, Failed, Marks, Refuse
from deferrals.operator import commands
from deferrals.server import ListenerSettings
from deferrals.stages.delivery.copy import final, relayed
from deferrals.testing import MemoryServer
from tests.model.test_text import BAD

#: What SMTP can carry in a command: the rest is refused there.
ON_THE_WIRE = [one for one in BAD if one > "\x7f" and not "\ud800" <= one <= "\udfff"]

#: Which fields reach which reader, by the text that stands before the character.
TABLE = {
    "plain log": ("sender", "recipient", "login", "answer", "verdict", "failure"),
    "JSON log": ("helo", "sender", "recipient", "login", "answer", "verdict", "failure"),
    "mailbox": ("helo", "sender", "recipient", "mark"),
    "next hop": ("helo", "recipient", "mark"),
    "notice": ("helo", "sender", "recipient", "orcpt", "answer", "host"),
    "client": ("verdict",),
    "terminal": ("sender", "recipient", "answer", "host", "answered", "traced", "logged"),
}


@implementer(IEnvelopeStage, IContentStage, IDeliveryStage)
class Stages:
    """
    A server's stages, which say what others have told them: a service its
    verdict, a next hop its answer.

    @ivar copies: what a mailbox, and a next hop, would have got.
    @ivar notices: what senders were told.
    """

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.copies: list[tuple[bytes, bytes]] = []
        self.notices: list[bytes] = []
        self.envelopes: list[Envelope] = []

    def judgeRecipient(self, envelope: Any, recipient: Any) -> Any:
        return Defer()

    def cohort(self, recipient: Any) -> Any:
        return recipient.address.domain

    def judge(self, message: Any, envelope: Any, recipients: Any) -> Any:
        domain = recipients[0].address.domain
        if domain == "broken.test":
            raise ValueError(f"failure{self.bad}")
        if domain == "refused.test":
            return Refuse(Reply(550, "5.7.1", f"verdict{self.bad}"))
        marks = Marks(headers=(("X-Mark", f"mark{self.bad}"),))
        return Accept(marks) if domain == "example.net" else ACCEPT

    def destination(self, recipient: Any) -> str:
        return "test"

    def deliver(self, message: Any, envelope: Any, recipients: Sequence[Addressee]) -> Any:
        if envelope.sender is None:
            with message.open() as file:
                self.notices.append(file.read())
            return dict.fromkeys(recipients, Delivered())
        self.envelopes.append(envelope)
        box = b"".join(final(message, envelope, "mx.example.net", recipients[0]).chunks())
        on = b"".join(relayed(message, envelope, "mx.example.net", recipients).chunks())
        self.copies.append((box, on))
        bad = self.bad.encode("utf-8", "ignore").decode()  # half a character is no outcome
        answer = Reply(550, "5.1.1", f"answer{bad}")
        return dict.fromkeys(recipients, Failed(answer, host=f"host{bad}"))


class Readers:
    """
    One transaction, and all that people read of it afterwards.

    @param bad: the character in all fields.
    """

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.wire = bad if bad in ON_THE_WIRE else ""
        self.address = self.wire if _isAddress(f"a{bad}@example.net") else ""
        self.stages = Stages(bad)
        with capturedLogs() as events:
            self.heard = self._transaction()
        self.events = events

    def _transaction(self) -> list[str]:
        stages, wire = self.stages, self.wire
        unitext = f"\\x{{{ord(wire):02X}}}" if wire else ""  # RFC 6533 §3
        checkers = [InMemoryUsernamePasswordDatabaseDontUse()]
        server = MemoryServer(
            **{"envelope": stages, "content": stages, "delivery": stages},
            checkers=checkers,
            notices="delivery",
            settings=ListenerSettings(auth="offered", auth_without_tls=True),
        )
        login = base64.b64encode(f"\0login{wire}\0no".encode()).decode()
        session = server.session()
        heard = session.say(f"EHLO helo{wire}x", f"AUTH PLAIN {login}")
        server.advance(60)
        heard += session.say(
            f"MAIL FROM:<sender{self.address}x@example.com> SMTPUTF8 PRDR",
            *(
                f"RCPT TO:<recipient{self.address}x@{domain}> NOTIFY=SUCCESS,FAILURE"
                f" ORCPT=utf-8;orcpt{unitext}@example.org"
                for domain in ("example.net", "refused.test", "broken.test")
            ),
            *("DATA", "Subject: test", "", "hello", "."),
        )
        server.advance(60)
        heard += session.say("QUIT")
        server.stop()
        return heard

    def plainLog(self) -> str:
        observer = PlainObserver(io.StringIO(), lambda flush: None)
        return "".join(map(observer.line, self.events))

    def jsonLog(self) -> str:
        observer = JSONObserver(io.StringIO(), lambda flush: None)
        return "\n".join(repr(json.loads(observer.line(one))) for one in self.events)

    def notice(self) -> str:
        """
        All parts but what was sent, decoded.
        """
        found = email.message_from_bytes(self.stages.notices[0], policy=email.policy.default)
        text = [str(found["To"])]
        for part in found.walk():
            if part.get_content_type() == "text/plain":
                text.append(part.get_content())
            elif part.get_content_type().endswith("delivery-status"):
                text.append(part.as_bytes().decode())
                text.append(str(part.get_payload(decode=True)))
        return "\n".join(text)

    def terminal(self) -> str:
        """
        What the commands print, of a queue with this message in it.
        """
        envelope, bad = self.stages.envelopes[0], self.bad
        row = {
            **{"id": envelope.id, "status": "queued", "due_seconds": 0, "age_seconds": 1},
            **{"host": f"host{bad}", "reply": f"550 answer{bad}", "attempts": 1},
            **{"sender": envelope.senderText, "recipient": f"recipient{bad}@example.net"},
            **{"destination": "test", "delivery": "box", "expires_seconds": None},
        }
        said = {"host": row["host"], "reply": row["reply"]}
        entry = {"time": 1.0, "seq": 0, "event": "failed", **said}
        shown = {
            **{"id": envelope.id, "gone": False, "size": 1, "received": 1.0},
            **{"recipients": [row], "history": [entry]},
        }
        connection: Any = Queue(row, shown)
        asked = Namespace(
            **{
                "id": envelope.id,
                "keys": [envelope.id],
                "journal": None,
                "ids": [],
                "sender": None,
                "recipient": None,
                "limit": 0,
            },
            **{"destination": None, "status": None, "older": None, "newer": None, "json": False},
            log=["-"],
        )
        log = f"2026-11-23T16:00:00.123+0000 [deferrals] {envelope.id} logged{bad}\n"
        reply = Reply(550, None, f"answered{bad}")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            commands.list_(connection, asked)
            commands.show(connection, asked)
            with redirectedInput(log):
                commands.explain_(connection, asked)
            _show("S", f"traced{bad}")
            _table(Result((Answer("a@example.net", reply, "final"),), reply, Form.PLAIN))
        return out.getvalue()

    def all(self) -> dict[str, str]:
        return {
            "plain log": self.plainLog(),
            "JSON log": self.jsonLog(),
            "mailbox": self.stages.copies[0][0].decode(),
            "next hop": self.stages.copies[0][1].decode(),
            "notice": self.notice(),
            "client": "\n".join(self.heard),
            "terminal": self.terminal(),
        }


def _isAddress(text: str) -> bool:
    try:
        Mailbox.parse(text)
    except AddressError:
        return False
    return True


class Queue:
    """
    What the commands ask.
    """

    running = True

    def __init__(self, row: dict[str, Any], shown: dict[str, Any]) -> None:
        self._answers = {"look": ([row], None), "show": shown}

    def call(self, name: str, *args: Any) -> Any:
        return self._answers[name]


@contextlib.contextmanager
def redirectedInput(text: str) -> Any:
    """
    Standard input is C{text}.
    """
    before, sys.stdin = (
        sys.stdin,
        io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass"))),
    )
    try:
        yield
    finally:
        sys.stdin = before


class OutsideTests(SynchronousTestCase):
    """
    Each source, each character, each reader.
    """

    def test_table(self) -> None:
        """No reader meets the character; each meets the field that it should."""
        for bad in BAD:
            readers = Readers(bad)
            for reader, text in readers.all().items():
                with self.subTest(reader=reader, character=hex(ord(bad))):
                    self.assertNotIn(bad, text)
                    for source in TABLE[reader]:
                        self.assertIn(source, text)

    def test_written(self) -> None:
        """What is taken out can still be seen."""
        for bad in "\u202e\u200d":
            readers = Readers(bad)
            for reader, text in readers.all().items():
                for source in TABLE[reader]:
                    if readers.address or source not in ("sender", "recipient"):
                        shown = f"{source}{cleaned(bad)}"
                        self.assertIn(shown, text.replace("\\\\", "\\"), reader)
