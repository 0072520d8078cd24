"""
Telling senders what became of their messages.

A notice (a DSN, RFC 3464) becomes a message of ours in the same transaction in
which the recipients that it is about leave the queue: neither can be there
without the other.  It goes where mail for the reverse-path goes.  If there is
no such way, the recipients are kept in the queue, for the operator to see.

There is never a notice about a notice, nor about anything else that has no
sender (RFC 5321 §4.5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogLevel

from deferrals.errors import Overtaken, StoreAway
from deferrals.interfaces import ISpool, Work
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    KEEP_SECONDS,
    NOT_TOLD,
    UNFIT,
    Disposition,
    Undeliverable,
    afterNotice,
)
from deferrals.model.dsn import LISTENER, Notification, isWanted, smaller
from deferrals.model.envelope import Client, Envelope, Parameters, Recipient
from deferrals.model.fields import separation
from deferrals.model.ids import TransactionIds, formatId
from deferrals.model.status import Status
from deferrals.model.verdict import Route
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.notice")

#: So many messages are looked at in one sweep.
SWEEP = 50

#: There is no notice about what becomes of a notice (RFC 5321 §4.5.5).
NEVER = frozenset({"NEVER"})

#: What a sender has to be told even if it asked for nothing (RFC 3461 §4.1).
_FAILURES = ("failed", "expired", "damaged")


@attrs.frozen
class Author:
    """
    The writer of notices.

    @ivar hostname: this server's name.
    @ivar ids: makes the numbers of notices.
    @ivar wall: the time of day.
    """

    hostname: str
    ids: TransactionIds
    wall: Callable[[], float]

    def newEnvelope(self) -> Envelope:
        """
        The envelope of a new message from the null reverse-path.
        """
        now = self.wall()
        client = Client("local", 0, self.hostname, "local")
        ids = self.ids
        return Envelope(ids.next(now), now, client, None, listener=LISTENER, spool=ids.spool)

    def write(
        self,
        work: Work,
        addressees: Sequence[Addressee],
        returned: tuple[bytes, bytes | None],
        envelope: Envelope,
    ) -> tuple[bytes, Parameters]:
        """
        @param work: what the notice is about.
        @param addressees: the recipients that it is about.
        @param returned: what is sent back: the header, and perhaps all.
        @param envelope: the notice's own.
        @return: the notice, and the parameters that it is to be sent with.
        """
        header, content = returned
        left = max(0.0, (work.expireSeconds or 0.0) - work.ageSeconds)
        return Notification(  # S-5
            work.envelope,
            addressees,
            header,
            content,
            self.hostname,
            envelope.uniqueId,
            envelope.received,
            left,
        ).build()


class Notifier:
    """
    @param spool: the queue.
    @param author: writes the notices.
    @param route: finds where a notice to a sender goes; C{None} if there is no
        way.
    @param inThread: runs a function outside the reactor thread.
    @ivar returnOctets: no larger message is sent back whole.
    """

    def __init__(
        self,
        spool: ISpool,
        author: Author,
        *,
        route: Callable[[Mailbox], Route | None],
        inThread: InThread,
        returnOctets: int,
        status: Status | None = None,
    ) -> None:
        self._status = status or Status()
        self._spool = spool
        self._author = author
        self._route = route
        self._inThread = inThread
        self.returnOctets = returnOctets
        self._telling: dict[int, bool] = {}
        self._idle: Deferred[None] | None = None
        self._stopping = False

    def stop(self) -> Deferred[None]:
        """
        Begin nothing more.

        @return: a Deferred that fires when nothing is under way any longer.
        """
        self._stopping = True
        if not self._telling:
            return succeed(None)
        self._idle = Deferred()
        return self._idle

    def tell(self, number: int) -> Deferred[list[Work]]:
        """
        Tell the sender of a message about all its recipients whose outcome
        stands.  One call at a time is under way for a message, so that no
        sender is told twice; a call meanwhile makes that one go on.

        @param number: of the message.
        @return: a Deferred of the notices, leased to the caller.  It does not
            fail: what could not be told comes back with the end of its lease.
        """
        if number in self._telling:
            self._telling[number] = True
            return succeed([])
        return Deferred.fromCoroutine(self._tell(number, self._spool.notices(1, number)))

    def sweep(self) -> Deferred[list[Work]]:
        """
        Tell senders about recipients that have waited for too long.

        @return: a Deferred as that of L{tell}.
        """
        return Deferred.fromCoroutine(self._sweep())

    async def _sweep(self) -> list[Work]:
        notices: list[Work] = []
        try:
            works = await self._spool.notices(SWEEP)
        except Exception as error:
            self._logFailure("the queue", error)
            return []
        for work in works:
            number = work.envelope.transaction
            if number not in self._telling and not self._stopping:
                notices += await self._tell(number, succeed([work]))
        return notices

    async def _tell(self, number: int, works: Deferred[list[Work]]) -> list[Work]:
        notices: list[Work] = []
        self._telling[number] = False
        try:
            for work in await works:
                notices += await self._tellOf(work)
        except Overtaken as error:
            _log.debug("a notice was not written: {error}", error=str(error))
        except Exception as error:
            self._logFailure(formatId(number), error)
        again = self._telling.pop(number)
        if again and not self._stopping:
            notices += await self.tell(number)
        if not self._telling and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)
        return notices

    def _logFailure(self, what: str, error: Exception) -> None:
        if isinstance(error, StoreAway):  # that was logged, and it is tried again
            return
        _log.error(
            "cannot tell senders about {what}: {error}",
            what=what,
            error=f"{type(error).__name__}: {error}",
        )

    async def _tellOf(self, work: Work) -> list[Work]:
        if any(one.action == UNFIT for one in work.addressees):
            return await self._smaller(work)
        sender = work.envelope.sender
        route = None if sender is None else self._route(sender)
        wanted = [one for one in work.addressees if self._isWanted(work, one)]
        dispositions: dict[Addressee, Disposition] = {
            addressee: afterNotice(addressee) for addressee in work.addressees
        }
        if route == NOT_TOLD:
            for addressee in wanted:
                self._logMeant(work, addressee)
            return await self._spool.record(work, dispositions)
        if sender is not None and route is not None and wanted:
            recipient = Recipient(sender, NEVER, route=route)
            return await self._notice(work, dispositions, wanted, recipient)
        for addressee in wanted:
            if addressee.action in _FAILURES:
                dispositions[addressee] = Undeliverable(KEEP_SECONDS)
                what = f"{addressee.action}, and there is no way to tell <{sender}>: kept"
                self._logUntold(work, addressee, what)
        return await self._spool.record(work, dispositions)

    async def _smaller(self, work: Work) -> list[Work]:
        """
        A notice does not fit its way: it goes as a smaller one.  Where there is
        none, it is kept, for the operator to see.
        """
        data = await self._inThread(smallerOf, work)
        if data is None:
            kept = Undeliverable(KEEP_SECONDS)
            for addressee in work.addressees:
                self._logUntold(
                    work, addressee, f"a notice that does not fit its way: kept ({addressee.reply})"
                )
            return await self._spool.record(work, dict.fromkeys(work.addressees, kept))
        parameters = Parameters(smtputf8=not data.partition(b"\r\n\r\n")[0].isascii())
        envelope = attrs.evolve(self._author.newEnvelope(), parameters=parameters)
        people = [Addressee(addressee.recipient) for addressee in work.addressees]
        notices = await self._written(
            work, {one: afterNotice(one) for one in work.addressees}, envelope, data, people
        )
        for addressee in work.addressees:
            _log.tell(
                self._status,
                "{transaction} to=<{recipient}> did not fit its way, and goes as {notice}: {reply}",
                event="notice",
                transaction=work.envelope.id,
                recipient=str(addressee),
                action=UNFIT,
                notice=envelope.id,
                reply=str(addressee.reply),
            )
        return notices

    async def _written(
        self,
        work: Work,
        dispositions: dict[Addressee, Disposition],
        envelope: Envelope,
        data: bytes,
        people: Sequence[Addressee],
    ) -> list[Work]:
        """
        Record outcomes together with the notice that tells of them.
        """
        writer = self._spool.newBody(envelope.transaction)
        writer.write(data)
        try:
            message = await writer.finish()
            return await self._spool.record(work, dispositions, [(envelope, message, people)])
        except Exception:
            writer.abort()
            raise

    def _isWanted(self, work: Work, addressee: Addressee) -> bool:
        """
        Whether the sender is to be told of a recipient; what it is not told,
        the log says.
        """
        action = addressee.action
        if action == "stuck":
            what = "was kept for its sender, who could never be told"
            self._logUntold(work, addressee, what)
            return False
        sender, notify = work.envelope.sender, addressee.recipient.notify
        if sender is None or not isWanted(notify, action):
            if action in _FAILURES:
                self._logUntold(work, addressee, f"{action}, and the sender is not told")
            return False
        return True

    def _logMeant(self, work: Work, addressee: Addressee) -> None:
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> {action}, and <{sender}> is not told, which is meant",
            event="untold",
            transaction=work.envelope.id,
            recipient=str(addressee),
            action=addressee.action,
            sender=work.envelope.senderText,
        )

    def _logUntold(self, work: Work, addressee: Addressee, what: str) -> None:
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> {what}",
            event="untold",
            level=LogLevel.error,
            transaction=work.envelope.id,
            recipient=str(addressee),
            what=what,
        )

    async def _notice(
        self,
        work: Work,
        dispositions: dict[Addressee, Disposition],
        wanted: Sequence[Addressee],
        recipient: Recipient,
    ) -> list[Work]:
        returned = await self._inThread(returnedOf, work, wanted, self.returnOctets)
        envelope = self._author.newEnvelope()
        data, parameters = self._author.write(work, wanted, returned, envelope)
        envelope = attrs.evolve(envelope, parameters=parameters)
        notices = await self._written(work, dispositions, envelope, data, [Addressee(recipient)])
        self._logNotice(work, envelope, wanted)
        return notices

    def _logNotice(self, work: Work, notice: Envelope, wanted: Iterable[Addressee]) -> None:
        for addressee in wanted:
            _log.tell(
                self._status,
                "{transaction} to=<{recipient}> {action}: <{sender}> is told by {notice}",
                event="notice",
                transaction=work.envelope.id,
                recipient=str(addressee),
                action=addressee.action,
                sender=work.envelope.senderText,
                notice=notice.id,
            )


def smallerOf(work: Work) -> bytes | None:
    """
    A notice with less in it; C{None}, where it cannot be less.  Blocks: for a
    thread.
    """
    with work.message.open() as file:
        return smaller(file.read())


def returnedOf(
    work: Work, wanted: Iterable[Addressee], largestOctets: int
) -> tuple[bytes, bytes | None]:
    """
    What of a message is sent back: its header, and perhaps all of it.  Nothing
    that is not as it came in.  Blocks: for a thread.
    """
    message = work.message
    try:
        if not message.isIntact():
            return b"", None
    except OSError:
        return b"", None
    failed = any(one.action in ("failed", "expired") for one in wanted)
    asked = work.envelope.parameters
    # What is binary can only be a part of what is binary (RFC 3030 §3), and
    # what needs TLS may not go without it (RFC 8689 §5).
    whole = failed and asked.ret == "FULL"
    whole = whole and asked.body != "BINARYMIME" and not asked.requireTLS
    if not whole or message.size > largestOctets:
        return message.header, None
    with message.open() as file:
        header, rest = file.read(len(message.header)), file.read()
    return header, header + separation(header, rest[:4]) + rest
