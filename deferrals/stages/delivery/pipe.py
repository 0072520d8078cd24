"""
Delivery to a program: it reads the message from its standard input, and its exit
status is the outcome (sysexits.h).

There is no shell: the command is a list of words, and what stands in for an
address is one word, whatever characters it has.  A program that takes too long
is killed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProcessTransport,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from deferrals.deferreds import Semaphore, TimeoutError, together, withDeadline
from deferrals.interfaces import IBinaryDelivery, IDeliveryStage, IMessage, IServices
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.settings import Octets, Seconds, checked, positive
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
from deferrals.stages.delivery.copy import Copy, CopyFile, final, withLF

_log = Logger(namespace="deferrals.delivery")

#: How long what a program has said is waited for, once it has ended.
LAST_WORDS_SECONDS = 1.0

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
    try:
        for word in words[1:]:
            word.format(recipient="", local="", domain="", sender="")
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError(
            "words in which {recipient}, {local}, {domain} and {sender} may stand"
        ) from None


@attrs.frozen
class PipeSettings:
    """
    @ivar command: the program, an absolute path, and its arguments;
        C{{recipient}}, C{{local}}, C{{domain}} and C{{sender}} stand for
        addresses, and an address stays in its word.
    @ivar timeout: how long it may take; then it is killed.
    @ivar output: how much it may say; then it is killed.
    @ivar line_ends: C{"lf"} is what programs expect; C{"crlf"} keeps the
        message's octets.
    @ivar processes: at once; the next one waits.
    """

    command: tuple[str, ...] = attrs.field(validator=checked(_command))
    timeout: Seconds = attrs.field(default=Seconds(60), validator=checked(positive))
    output: Octets = attrs.field(default=Octets(64 << 10), validator=checked(positive))
    line_ends: Literal["lf", "crlf"] = "lf"
    processes: int = attrs.field(default=5, validator=checked(positive))


@implementer(IDeliveryStage)
class PipeDelivery:
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

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Deferred[dict[Addressee, Outcome]]:
        running = [
            Deferred.fromCoroutine(self._one(message, envelope, addressee))
            for addressee in recipients
        ]
        done = together(running)
        return done.addCallback(lambda outcomes: dict(zip(recipients, outcomes, strict=True)))

    async def _one(self, message: IMessage, envelope: Envelope, addressee: Addressee) -> Outcome:
        copy = final(message, envelope, self._services.hostname, addressee)
        await self._slots.acquire()
        try:
            outcome: Outcome = await withDeadline(
                self._services.reactor,
                self._settings.timeout,
                self._run,
                self._words(envelope, addressee.recipient),
                self._environment(envelope, addressee.recipient),
                copy,
            )
            return outcome
        except TimeoutError:
            return Retry(Reply(451, "4.3.0", "the program takes too long"))
        except OSError as error:
            return Retry(Reply(451, "4.3.5", f"the program cannot be run: {error.strerror}"))
        finally:
            self._slots.release()

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

    def _run(self, words: list[str], environment: dict[str, str], copy: Copy) -> Deferred[Outcome]:
        chunks = copy.chunks()
        lines = withLF(chunks) if self._settings.line_ends == "lf" else chunks
        reactor = self._services.reactor
        program = _Program(reactor, CopyFile(lines), self._settings.output)
        if not os.access(words[0], os.X_OK):
            raise FileNotFoundError(2, "there is no such program")
        reactor.spawnProcess(
            program,
            os.fsencode(words[0]),
            [os.fsencode(word) for word in words],
            environment,
            self._services.baseDir,
        )
        return program.outcome


class _IProgramTransport(IProcessTransport, IConsumer):
    """
    What is needed of a program's transport: as a consumer it is the program's
    standard input.
    """


class _Program(ProcessProtocol):
    """
    One program that runs.

    @ivar outcome: fires when it has ended; cancelled, it is killed.
    """

    transport: _IProgramTransport  # from connectionMade on; nothing here is called before

    def __init__(self, clock: IReactorTime, file: CopyFile, limit: int) -> None:
        self._clock = clock
        self._file = file
        self._limit = limit
        self._said = bytearray()
        self._unread = False
        self._end: IDelayedCall | None = None
        self.outcome: Deferred[Outcome] = Deferred(self._cancel)

    def _cancel(self, _: Deferred[Outcome]) -> None:
        self._kill()

    def connectionMade(self) -> None:
        sender = FileSender()
        d = sender.beginFileTransfer(self, self.transport)
        # One that does not read to the end has its exit status to say why.
        d.addErrback(lambda failure: b"")
        d.addCallback(self._written)

    def read(self, size: int) -> bytes:
        """
        The next octets for the program, which is killed where there are none
        although there should be: half a message must not be taken for a whole
        one.
        """
        try:
            return self._file.read(size)
        except Exception:
            _log.failure("the message cannot be read")
            self._unread = True
            self._kill()
            return b""

    def _written(self, last: bytes) -> None:
        self._file.close()
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._said += data
        if len(self._said) > self._limit:
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def processExited(self, reason: Failure) -> None:
        if self.outcome.called:
            self.transport.loseConnection()
            return
        # What it has started may hold its pipes open for ever.
        self._end = self._clock.callLater(LAST_WORDS_SECONDS, self._over, reason)

    def processEnded(self, reason: Failure) -> None:
        if self._end is not None and self._end.active():
            self._end.cancel()
            self._over(reason)

    def _over(self, reason: Failure) -> None:
        self.transport.loseConnection()
        if self.outcome.called:
            return
        if self._unread:
            self.outcome.callback(Retry(R451_LOCAL_ERROR))
            return
        if len(self._said) > self._limit:
            self.outcome.callback(Retry(Reply(451, "4.3.0", "the program says too much")))
            return
        error = reason.value
        killed = isinstance(error, ProcessTerminated) and error.signal is not None
        status = None if killed else getattr(error, "exitCode", 0) or 0
        self.outcome.callback(outcomeOf(status, bytes(self._said[:500])))


def outcomeOf(status: int | None, said: bytes) -> Outcome:
    """
    What an exit status comes to.

    @param status: C{None} where a signal has ended the program.
    @param said: the beginning of what it has said.
    """
    words = " ".join(said.decode("utf-8", "replace").split())[:200]
    if status == 0:
        return Delivered(Reply(250, "2.0.0", words or "delivered"))
    if status is None:
        return Retry(Reply(451, "4.3.0", "the program was ended by a signal"))
    enhanced = _EXITS.get(status, "5.3.0")
    text = f"the program says: {words}" if words else f"the program ended with status {status}"
    if enhanced.startswith("4"):
        return Retry(Reply(451, enhanced, text))
    return Failed(Reply(550, enhanced, text))
