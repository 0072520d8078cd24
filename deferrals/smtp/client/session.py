"""
The client's side of an SMTP or LMTP session: any number of messages over one
connection (L{deferrals.smtp.client.conversation}), one after the other.

Of the ways of asking for each recipient's own answer the first is used that the server offers
(D-3, X-2).  Where it offers PIPELINING, envelope and DATA go out in one piece; where
it offers CHUNKING, the message goes in one chunk.

Ownership: until the final reply the message is the caller's (D-21), and nothing
that a block says is acted upon before it (P-10).  Nothing is tried again here.

Every wait has a deadline, after the data ten minutes for each reply (D-24).  A
server that breaks the protocol, says something unasked, or is late, loses the
connection; the caller gets a L{Result} all the same, in which the recipients
that had no final answer are temporarily refused.  Whatever is cancelled loses
the connection, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from deferrals.errors import PeerError
from deferrals.model.answers import Answer, Result
from deferrals.model.commands import checkPath, checkRecipient
from deferrals.model.envelope import Form
from deferrals.model.exdata import EXTENDED
from deferrals.model.outgoing import PREFERENCE, Outgoing, Timeouts
from deferrals.model.reply import R250_SENDER, Reply, kept
from deferrals.model.sending import R553_NO_SMTPUTF8, R554_BARE_NEWLINE, Sending, unfit
from deferrals.smtp.client.conversation import UNWANTED, Conversation
from deferrals.smtp.client.writing import BareNewline, Exactly, MessageProducer, Stuffing

_EARLY = "the message was answered before its end"
_INTERMEDIATE = "a recipient was answered 3xx"


def _unheard(index: int, answer: Answer) -> None:
    """All answers are in the result."""


class ClientSession(Conversation):
    """
    Messages over one connection.

    @param clock: see L{Conversation}; so are C{hello}, C{lmtp} and C{trace}.
    @param forms: the ways of asking for each recipient's answer that may be
        used.
    @param chunking: whether BDAT may be used.
    @raise ValueError: the name is none.
    @ivar transactions: how many messages have been sent over it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        hello: str,
        lmtp: bool = False,
        forms: Sequence[Form] = PREFERENCE,
        timeouts: Timeouts = Timeouts(),
        trace: Callable[[str, str], None] | None = None,
        chunking: bool = True,
    ) -> None:
        super().__init__(clock, hello, lmtp, timeouts, trace)
        self._forms = forms
        self._chunking = chunking
        self._producer: MessageProducer | None = None
        self._answerTimer: IDelayedCall | None = None
        self.transactions = 0

    def _came(self, reply: Reply) -> None:
        producer = self._producer
        isEarly = producer is not None and not producer.complete
        if not (isEarly and self._mayTake(reply)):
            # It may refuse what it has not read to the end, but cannot have taken it.
            super()._came(reply)
        if isEarly and (self._lmtp or self._mayTake(reply)):
            self._broken(PeerError(_EARLY))

    def _mayTake(self, reply: Reply) -> bool:
        return reply.code < 400 or self._isExtended(reply.code)

    def _grew(self) -> None:
        if self._answerTimer is not None:
            self._answerTimer.reset(self._timeouts.answer)

    def _wake(self) -> None:
        super()._wake()
        if self._producer is not None:
            self._producer.stopProducing()

    async def send(
        self,
        outgoing: Outgoing,
        forms: Sequence[Form] | None = None,
        heard: Callable[[int, Answer], None] = _unheard,
    ) -> Result:
        """
        Send one message.  The next one may be sent when this one is done,
        while the session is L{usable<Conversation.usable>}.  It fails only when it is cancelled.

        @param forms: instead of the session's own.
        @param heard: is told each recipient's answer, by its index, that stands by
            itself (LMTP); and what is known when this fails.
        """
        sending = Sending(outgoing, self._form(forms), self.offered, self._chunking)
        reason = unfit(outgoing, self.capabilities, self.verified)
        if reason is not None:
            sending.refuseAll(reason)
            return sending.result()
        self._busy = True
        self.transactions += 1
        self._parser.renew(len(outgoing.recipients))
        try:
            await self._envelope(sending)
            if sending.begun:
                await self._content(sending, heard)
        except BareNewline:
            sending.refuseAll(R554_BARE_NEWLINE)
        except PeerError as error:
            if self._lost is None:
                self._broken(error)
        except Exception:
            self.abort()
            for index, answer in sending.known().items():
                heard(index, answer)
            raise
        self._settle()
        return sending.result(self.lost)

    async def ask(self, sender: str, recipient: str) -> tuple[Reply, Reply]:
        """
        Ask whether a recipient would be taken; nothing is sent.  A server that
        cannot be told the address is not asked: the message could not be sent
        either.

        @return: the replies to MAIL and RCPT.
        @raise PeerError: there are none; the connection is lost.
        @raise ValueError: one of them is no address.
        """
        checkPath(sender)
        checkRecipient(recipient)
        commands = [f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "RSET"]
        if not f"{sender}{recipient}".isascii():
            if "SMTPUTF8" not in self.capabilities:
                return R250_SENDER, R553_NO_SMTPUTF8
            commands[0] += " SMTPUTF8"
        self._busy = True
        self.transactions += 1
        self._parser.renew(1)
        replies = []
        pipelined = "PIPELINING" in self.offered
        if pipelined:
            self._commands(commands)
        for command in commands:
            if not pipelined:
                self._command(command)
            replies.append(await self._expect(self._timeouts.command))
        self._settle()
        return replies[0], replies[1]

    def _form(self, forms: Sequence[Form] | None) -> Form:
        if self._lmtp:
            return Form.LMTP
        wanted = self._forms if forms is None else forms
        offered = [form for form in PREFERENCE if form.keyword in self.offered]  # D-3, X-2
        return next((form for form in offered if form in wanted), Form.PLAIN)

    async def _envelope(self, sending: Sending) -> None:
        """
        MAIL, RCPT and DATA, up to the reply to DATA.
        """
        commands = sending.commands()
        pipelined = "PIPELINING" in self.offered
        if pipelined:
            self._commands(commands)
        for command in commands:
            if not pipelined:
                if not sending.wants(command):
                    continue
                self._command(command)
            seconds = self._timeouts.data if command == "DATA" else self._timeouts.command
            sending.answered(command, await self._expect(seconds))
        if sending.chunks and sending.senderAccepted and sending.waiting:
            sending.begun = True
        elif sending.begun and not sending.senderAccepted:
            raise PeerError("DATA without a sender was answered 354")
        elif sending.begun and not sending.waiting:
            # DATA was answered 354 although no recipient was accepted (RFC 2920 §3.1).
            self._command(".")
            await self._expect(self._timeouts.answer)
            sending.begun = False
        elif sending.senderAccepted and not sending.begun:
            self._command("RSET")
            await self._expect(self._timeouts.command)

    async def _content(self, sending: Sending, heard: Callable[[int, Answer], None]) -> None:
        """
        The message, and everything that is said about it.
        """
        try:
            await self._write(sending)
        except PeerError:
            if self._replies and self._replies[0].code >= 400:
                sending.final = kept(self._taken())  # it could not wait for the end
            raise
        seconds = self._timeouts.answer
        if sending.form is Form.LMTP:
            for index in sending.waiting:
                reply = await self._expect(seconds)
                if reply.isIntermediate:
                    raise PeerError(_INTERMEDIATE)
                sending.block[index] = reply
                heard(index, Answer(sending.outgoing.recipients[index], reply, "recipient"))
            return
        reply = await self._firstAnswer(sending)
        if self._isExtended(reply.code):
            sending.extended(reply.text.split("\n"))
            return
        reply = kept(reply)
        if reply.code == 353:
            listed = sending.listed
            if not listed:
                raise PeerError("353 without a recipient to answer for")
            for index in listed:
                sending.block[index] = await self._expect(seconds)
                if sending.block[index].isIntermediate:
                    raise PeerError(_INTERMEDIATE)
            reply = await self._expect(seconds)
        if reply.isIntermediate:
            raise PeerError(f"the final reply is {reply}")
        sending.final = reply

    def _isExtended(self, code: int) -> bool:
        """
        Whether a reply behind the data is one that has each recipient's own
        (X-3): the server has announced it, asked for or not.
        """
        return code == EXTENDED and Form.EXDATA.keyword in self.capabilities

    async def _firstAnswer(self, sending: Sending) -> Reply:
        """
        The first reply behind the data.  Where it is a 558, time begins anew
        with each line (X-11), and what there is of it counts (X-8).
        """
        parser, seconds = self._parser, self._timeouts.answer
        late = self._clock.callLater(seconds, lambda: self._broken(PeerError("no reply in time")))
        if Form.EXDATA.keyword in self.capabilities:
            self._answerTimer = late
            parser.extend(len(sending.waiting))
        try:
            return await self._next()
        except PeerError:
            lines = parser.unfinished
            if lines and self._isExtended(int(lines[0][:3])):
                sending.extended([line[4:] for line in lines])
            raise
        finally:
            self._answerTimer = None
            parser.extend(0)
            if late.active():
                late.cancel()

    async def _write(self, sending: Sending) -> None:
        """
        Write the message; give up when the server does not take any of it for
        too long, or has hung up.  With LMTP nothing says whose answer one is that comes
        before the end: it is that of all, and what follows is not heard.
        """
        if (self._lmtp and self._replies) or any(map(self._mayTake, self._replies)):
            raise PeerError(_EARLY)
        outgoing = sending.outgoing
        seconds = self._timeouts.data
        late = self._clock.callLater(
            seconds, lambda: self._broken(PeerError("the server does not read"))
        )
        if sending.chunks:
            self._command(f"BDAT {outgoing.size} LAST")
        encoding = Exactly(outgoing.size) if sending.chunks else Stuffing()
        self._producer = producer = MessageProducer(
            self.transport,
            outgoing.chunks(),
            encoding,
            not outgoing.binary,
            lambda: late.reset(seconds),
        )
        sending.handedOver = True
        try:
            self.transport.registerProducer(producer, False)
            await producer.done
        except BaseException as error:
            # Half a message must never be taken for a whole one.
            self._broken(error if isinstance(error, PeerError) else PeerError(UNWANTED))
            raise
        finally:
            self._producer = None
            if late.active():
                late.cancel()
