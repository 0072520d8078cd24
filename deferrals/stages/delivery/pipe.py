"""
Delivery to a program: it reads the message from its standard input, and its exit
status is the outcome (sysexits.h).

There is no shell: the command is a list of words, and what stands in for an
address is one word, whatever characters it has.  A program has a process group of
its own; where it takes too long, all of the group is ended (SIGTERM, and SIGKILL a
little later).

What a program says is for the log: it may be a traceback.  A sender reads words of
ours, unless the program says in its first line what the sender is to be told.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProcessTransport,
    IReactorCore,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from deferrals.deferreds import Semaphore, TimeoutError, withDeadline
from deferrals.interfaces import (
    IBinaryDelivery,
    ILocalDelivery,
    IMessage,
    IReportingDelivery,
    IServices,
)
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.settings import Octets, Seconds, checked, positive, template
from deferrals.model.text import cleaned
from deferrals.model.verdict import Delivered, Details, Failed, Outcome, Retry
from deferrals.stages.delivery.copies import Report, ReportingDelivery, deliverApart
from deferrals.stages.delivery.copy import Copy, CopyFile, final, withLF
from deferrals.stages.processgroup import LACKING, GroupProcess, signalGroup, spawn

_log = Logger(namespace="deferrals.delivery")

#: How long what a program has said is waited for, once it has ended.
LAST_WORDS_SECONDS = 1.0

#: How long a program that was asked to end may take, until it is killed.
KILL_SECONDS = 5.0

#: So much of what a program says is looked at, in octets; and so much of it a sender is told.
SAID_OCTETS, TOLD_LETTERS = 500, 200

R250_DELIVERED = Reply(250, "2.0.0", "delivered")
R451_TOO_SLOW = Reply(451, "4.3.0", "the program for this recipient takes too long")
R451_TOO_MUCH = Reply(451, "4.3.0", "the program for this recipient does not work")
R451_SIGNAL = Reply(451, "4.3.0", "the program for this recipient was ended")
R451_NOT_RUN = Reply(451, "4.3.5", "the program for this recipient cannot be run now")
R451_NO_PROCESS = Reply(451, "4.3.0", "this server has no room for another program now")
_LATER = "the program for this recipient cannot take the message now"
_REFUSED = "the program for this recipient refuses the message"

#: A program's first line that a sender is told: an enhanced code, and text.
_TOLD = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3}) ([^\r\n]*[^\r\n ])", re.A)

#: What shells and languages say where they can start nothing: that is no refusal.
_NO_ROOM = re.compile(
    r"[Cc]annot fork|fork: (?:retry|Resource)|Resource temporarily unavailable"
    r"|Cannot allocate memory|[Tt]oo many open files"
)

#: What a program may find in its environment.
_PATH = "/usr/local/bin:/usr/bin:/bin"

#: sysexits.h: enhanced codes of what is refused for good, and of what is not.
_EXITS = {
    64: "5.3.5",
    65: "5.6.0",
    66: "5.3.0",
    67: "5.1.1",
    68: "5.1.2",
    69: "5.3.0",
    70: "5.3.0",
    71: "4.3.0",
    72: "5.3.5",
    73: "5.2.0",
    74: "4.3.0",
    75: "4.3.0",
    76: "5.5.0",
    77: "5.7.0",
    78: "4.3.5",
    126: "4.3.5",
    127: "4.3.5",
}


def _command(words: Sequence[str]) -> None:
    if not words or not os.path.isabs(words[0]):
        raise ValueError('a list of words, the first one an absolute path: ["/usr/bin/program"]')
    for word in words[1:]:
        template(word, "recipient", "local", "domain", "sender")


@attrs.frozen
class PipeSettings:
    """
    @ivar command: the program, an absolute path, and its arguments;
        C{{recipient}}, C{{local}}, C{{domain}} and C{{sender}} stand for
        addresses, and an address stays in its word.
    @ivar timeout: how long it may take; then it is ended, with all that it has started.
    @ivar output: how much it may say; then it is ended, too.
    @ivar line_ends: C{"lf"} is what programs expect; C{"crlf"} keeps the
        message's octets.
    @ivar processes: at once; the next one waits.
    """

    command: tuple[str, ...] = attrs.field(validator=checked(_command))
    timeout: Seconds = attrs.field(default=Seconds(60), validator=checked(positive))
    output: Octets = attrs.field(default=Octets(64 << 10), validator=checked(positive))
    line_ends: Literal["lf", "crlf"] = "lf"
    processes: int = attrs.field(default=5, validator=checked(positive))


@implementer(ILocalDelivery, IReportingDelivery)
class PipeDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: PipeSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        if settings.line_ends == "crlf":
            alsoProvides(self, IBinaryDelivery)
        self._slots = Semaphore(settings.processes)

    def destination(self, recipient: Recipient) -> str:
        return f"pipe {self._settings.command[0]}"

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        async def one(group: Sequence[Addressee], _: Report) -> dict[Addressee, Outcome]:
            (addressee,) = group
            return {addressee: await self._one(message, envelope, addressee)}

        return deliverApart(envelope, [[addressee] for addressee in recipients], one, report)

    async def _one(self, message: IMessage, envelope: Envelope, addressee: Addressee) -> Outcome:
        copy = final(message, envelope, self._services.hostname, addressee)
        words = self._words(envelope, addressee.recipient)
        environment = self._environment(envelope, addressee.recipient)
        await self._slots.acquire()
        try:
            program = self._start(words, environment, copy)
        except OSError as error:
            self._slots.release()
            reply = R451_NO_PROCESS if error.errno in LACKING else R451_NOT_RUN
            return Retry(reply, details=Details.ofError(error))
        except BaseException:
            self._slots.release()
            raise
        program.gone.addCallback(lambda _: self._slots.release())
        try:
            outcome: Outcome = await withDeadline(
                self._services.reactor, self._settings.timeout, lambda: program.outcome
            )
            return outcome
        except TimeoutError:
            details = Details(f"{words[0]} does not end: {program.said}")
            return Retry(R451_TOO_SLOW, details=details)

    def _words(self, envelope: Envelope, recipient: Recipient) -> list[str]:
        program, *arguments = self._settings.command
        values = {
            "recipient": str(recipient),
            "local": recipient.address.local,
            "domain": recipient.address.domain,
            "sender": envelope.senderText,
        }
        return [program, *(word.format(**values) for word in arguments)]

    def _environment(self, envelope: Envelope, recipient: Recipient) -> dict[str, str]:
        return {
            "PATH": _PATH,
            "SENDER": envelope.senderText,
            "RECIPIENT": str(recipient),
            "TRANSACTION": envelope.uniqueId,
        }

    def _start(self, words: list[str], environment: dict[str, str], copy: Copy) -> _Program:
        """
        @raise OSError: it cannot be started.
        """
        chunks = copy.chunks()
        lines = withLF(chunks) if self._settings.line_ends == "lf" else chunks
        reactor = self._services.reactor
        file = CopyFile(lines)
        program = _Program(reactor, file, self._settings.output, words[0])
        try:
            spawn(reactor, program, words, environment, self._services.baseDir)
        except BaseException:
            file.close()
            raise
        return program


class _IProgramTransport(IProcessTransport, IConsumer):
    """
    What is needed of a program's transport: as a consumer it is the program's
    standard input.
    """


class _Program(ProcessProtocol):
    """
    One program that runs.

    @param limit: how much it may say.
    @param name: the program's, for the log.
    @ivar outcome: fires when it has ended; cancelled, it is ended.
    @ivar gone: fires when it has ended, however that came.
    """

    transport: _IProgramTransport  # from connectionMade on; nothing here is called before

    def __init__(self, reactor: IReactorTime, file: CopyFile, limit: int, name: str) -> None:
        self._reactor = reactor
        self._file = file
        self._limit = limit
        self._name = name
        self._said = bytearray()
        self._unread = self._hasEnded = False
        self._end: IDelayedCall | None = None
        self._kill: IDelayedCall | None = None
        self._atEnd: tuple[object, ...] | None = None
        self._group: int | None = None
        self.outcome: Deferred[Outcome] = Deferred(lambda _: self._terminate())
        self.gone: Deferred[None] = Deferred()

    @property
    def said(self) -> str:
        """
        The beginning of what it has said, in one line.
        """
        return " ".join(bytes(self._said[:SAID_OCTETS]).decode("utf-8", "replace").split())

    def connectionMade(self) -> None:
        # Its number is known for good: the transport forgets it with its end.
        self._group = self.transport.pid if isinstance(self.transport, GroupProcess) else None
        sender = FileSender()
        d = sender.beginFileTransfer(self, self.transport)
        # One that does not read to the end has its exit status to say why.
        d.addErrback(lambda failure: b"")
        d.addCallback(self._written)

    def read(self, size: int) -> bytes:
        """
        The next octets for the program, which is ended where there are none
        although there should be: half a message must not be taken for a whole
        one.
        """
        try:
            return self._file.read(size)
        except Exception:
            _log.raised(Failure(), "{stage}: the message cannot be read: {error}", stage="pipe")
            self._unread = True
            self._signal(signal.SIGKILL)  # it must not see the end of what there is
            return b""

    def _written(self, last: bytes) -> None:
        self._file.close()
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if len(self._said) > self._limit:
            return  # it is being ended
        self._said += data[: self._limit + 1 - len(self._said)]
        if len(self._said) > self._limit:
            self._terminate()

    def _terminate(self) -> None:
        """
        End it, and all that it has started.
        """
        if self._kill is None and not self._hasEnded:
            self._signal(signal.SIGTERM)
            self._kill = self._reactor.callLater(KILL_SECONDS, self._signal, signal.SIGKILL)
            if IReactorCore.providedBy(self._reactor):
                # A server that stops does not wait so long.
                self._atEnd = self._reactor.addSystemEventTrigger(
                    "after", "shutdown", self._signal, signal.SIGKILL
                )

    def _signal(self, number: signal.Signals) -> None:
        """
        To the whole group; to the program alone, where it has none yet.
        """
        if not signalGroup(self._group, number) and not self._hasEnded:
            with contextlib.suppress(ProcessExitedAlready):
                self.transport.signalProcess(number.name.removeprefix("SIG"))

    def processExited(self, reason: Failure) -> None:
        self._hasEnded = True
        if self._kill is not None:
            # What is left of a group that was to end has had its chance.
            self._signal(signal.SIGKILL)
            if self._kill.active():
                self._kill.cancel()
        if self._atEnd is not None and IReactorCore.providedBy(self._reactor):
            self._reactor.removeSystemEventTrigger(self._atEnd)
        self._file.close()
        self.gone.callback(None)
        if self.outcome.called:
            self.transport.loseConnection()
            return
        # What it has started may hold its pipes open for ever.
        self._end = self._reactor.callLater(LAST_WORDS_SECONDS, self._over, reason)

    def processEnded(self, reason: Failure) -> None:
        if self._end is not None and self._end.active():
            self._end.cancel()
            self._over(reason)

    def _over(self, reason: Failure) -> None:
        self.transport.loseConnection()
        if self.outcome.called:
            return
        if self._unread:
            details = Details("the message could not be read to its end")
            self.outcome.callback(Retry(R451_LOCAL_ERROR, details=details))
            return
        # What it has left behind may say as much as it likes: its own status stands.
        if self._kill is not None and len(self._said) > self._limit:
            details = Details(f"{self._name} says too much: {self.said}")
            self.outcome.callback(Retry(R451_TOO_MUCH, details=details))
            return
        error = reason.value
        killed = isinstance(error, ProcessTerminated) and error.signal is not None
        status = None if killed else getattr(error, "exitCode", 0) or 0
        self.outcome.callback(outcomeOf(status, bytes(self._said[:SAID_OCTETS])))


def outcomeOf(status: int | None, said: bytes) -> Outcome:
    """
    What an exit status comes to.

    @param status: C{None} where a signal has ended the program.
    @param said: the beginning of what it has said.
    """
    words = " ".join(said.decode("utf-8", "replace").split())
    ended = "a signal" if status is None else f"status {status}"
    details = Details(f"ended with {ended}: {words}" if words or status != 0 else "")
    if status == 0:
        return Delivered(R250_DELIVERED, details=details)
    if status is None:
        return Retry(R451_SIGNAL, details=details)
    if status not in _EXITS and _NO_ROOM.search(words):
        return Retry(R451_NO_PROCESS, details=details)
    enhanced = _EXITS.get(status, "5.3.0")
    code, text = (451, _LATER) if enhanced.startswith("4") else (550, _REFUSED)
    reply = toldReply(code, said) or Reply(code, enhanced, text)
    return Retry(reply, details=details) if reply.isTemporary else Failed(reply, details=details)


def toldReply(code: int, said: bytes) -> Reply | None:
    """
    What a program tells the sender: its first line, where that begins with an
    enhanced code of the same class as the outcome.
    """
    match = _TOLD.match(said.decode("utf-8", "replace"))
    if match is None or match[1][0] != str(code)[0]:
        return None
    return Reply(code, match[1], cleaned(match[2])[:TOLD_LETTERS])
