"""
The content stage C{clamav}: is there a virus in it?  Asks clamd (C{INSTREAM}).

A message is scanned once, whatever the number of recipients and policies; what
a virus means is each policy's: refuse, or mark.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Hashable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IContentStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.text import cleaned
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.exchange import chunks, exchange
from deferrals.stages.content.scanner import OnError, Scanner, TooLargeMeans, tooLarge

_log = Logger(namespace="deferrals.stages.clamav")


def _pattern(value: str) -> None:
    if not value or not value.isprintable():
        raise ValueError("a name of clamd's, in which * and ? may stand")


@attrs.frozen
class VirusClass:
    """
    What some names mean.

    @ivar match: the names; C{*}, C{?} and C{[]} as in a shell.
    @ivar action: refuse; mark the copy and file it as junk; or as if nothing had
        been found.
    """

    match: str = attrs.field(validator=checked(_pattern))
    action: Literal["refuse", "mark", "ignore"]


@attrs.frozen
class ClamAVSettings:
    """
    @ivar socket: where clamd listens: a Twisted client endpoint string.
    @ivar timeout: for the whole scan.
    @ivar on_error: what it means that there is no scan: 451; accept, with a
        field in the copy that says so; or as if this stage were not there.
    @ivar action: what a virus means: refuse, or mark the copy and file it as
        junk.
    @ivar classes: what names of a class mean instead, each with C{match} and C{action}:
        the first that matches counts.  For example C{Heuristics.Encrypted.*}, C{PUA.*},
        C{*.UNOFFICIAL}.
    @ivar reply: what a recipient refuses with; the virus's name is put behind.
    @ivar subject_tag: put in front of the Subject of a marked copy.
    @ivar too_large: what it means that the message is larger than clamd takes:
        accept; accept, with a field that says so; or refuse.
    @ivar concurrency: scans at once; clamd has C{MaxThreads} (10).
    """

    socket: str
    timeout: Seconds = attrs.field(default=Seconds(15.0), validator=checked(positive))
    on_error: OnError = "refuse-temporarily"
    action: Literal["refuse", "mark"] = "refuse"
    classes: tuple[VirusClass, ...] = ()
    reply: str = attrs.field(
        default="550 5.7.1 refused: it carries a virus", validator=checked(Reply.parseRefusal)
    )
    subject_tag: str = ""
    too_large: TooLargeMeans = "mark"
    concurrency: int = attrs.field(default=10, validator=checked(positive))


#: What clamd calls its own limits, where it is told to say so.
_LIMITS = "Heuristics.Limits.Exceeded"


@attrs.frozen
class ClamdScan:
    """
    What clamd said.

    @ivar virus: its name; empty if there is none.
    @ivar tooLarge: it did not scan: the message is larger than it takes.
    """

    virus: str = ""
    tooLarge: bool = False


@implementer(IContentStage)
class ClamAVStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: ClamAVSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._endpoint = services.connect(settings.socket)
        self._scanner = Scanner("clamav", settings.socket, settings, services)

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        The answer is the same for all recipients under this policy.
        """
        return None

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        return self._scanner.judge(
            message, envelope, None, lambda: self._scan(message, envelope), self._decide
        )

    async def _scan(self, message: IMessage, envelope: Envelope) -> ClamdScan:
        whole = self._services.view(message, envelope)
        answer = await exchange(self._endpoint, _instream(whole), _isWhole)
        scan = parseAnswer(answer)
        if scan.virus:
            _log.info("{transaction}: found {virus}", transaction=envelope.id, virus=scan.virus)
        return scan

    def _decide(self, scan: ClamdScan) -> ContentVerdict:
        settings = self._settings
        if scan.tooLarge:
            return tooLarge("clamav", settings.too_large, "too large to be scanned for viruses")
        action = self._actionOf(scan.virus) if scan.virus else "ignore"
        why = f"clamav: {scan.virus}, action {action}"
        if action == "ignore":
            return ACCEPT
        if action == "refuse":
            reply = Reply.parseRefusal(settings.reply)
            return Refuse(attrs.evolve(reply, text=f"{reply.text} ({scan.virus})"), why=why)
        marks = Marks((("X-Virus", scan.virus),), ("X-Virus",), settings.subject_tag, True)
        return Accept(marks, why=why)

    def _actionOf(self, virus: str) -> Literal["refuse", "mark", "ignore"]:
        for one in self._settings.classes:
            if fnmatchcase(virus, one.match):
                return one.action
        return self._settings.action


def _instream(message: IMessage) -> Generator[bytes, None, None]:
    yield b"zINSTREAM\0"
    for chunk in chunks(message):
        yield struct.pack(">I", len(chunk)) + chunk
    yield struct.pack(">I", 0)


def _isWhole(answer: bytearray) -> bool:
    return answer.endswith((b"\0", b"\n"))


def parseAnswer(answer: bytes) -> ClamdScan:
    """
    Read clamd's answer to C{INSTREAM}.

    @raise StageError: it says neither yes nor no.
    """
    text = answer.partition(b"\0")[0].decode("utf-8", "replace").strip()
    if text == "stream: OK":
        return ClamdScan()
    if text.startswith("stream: ") and text.endswith(" FOUND"):
        name = text.removeprefix("stream: ").removesuffix(" FOUND")
        if name.startswith(_LIMITS):  # AlertExceedsMax: not scanned to the end
            return ClamdScan(tooLarge=True)
        return ClamdScan(virus=cleaned(name)[:100] or "unnamed")
    if text.startswith("INSTREAM size limit exceeded"):
        return ClamdScan(tooLarge=True)
    raise StageError(f"clamd answered {text[:200]!r}")
