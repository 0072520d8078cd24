"""
Telling senders what became of their messages.

A notice (a DSN, RFC 3464) becomes a message of ours in the same transaction in
which the recipients that it is about leave the queue: neither can be there
without the other.  It goes where mail for the reverse-path goes.  A sender that
cannot be told leaves its recipients in the queue, for the operator to see.

There is never a notice about a notice, nor about anything else that has no
sender (RFC 5321 §4.5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from deferrals.interfaces import Work
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee, Gone, Standing, Stuck, Warned
from deferrals.model.dsn import Notification, isWanted
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.ids import TransactionIds
from deferrals.model.verdict import Route

_log = Logger(namespace="deferrals.notice")

#: How often those who have waited for too long are looked for.
EVERY_SECONDS = 2.0

#: So many messages are looked at in one sweep.
SWEEP = 50

#: How long a recipient is kept whose sender cannot be told.
KEEP_SECONDS = 432000.0


class Notifier:
    """
    @param spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @param clock: timers.
    @param take: delivers what is leased to us.
    @param route: where a notice for somebody goes, as a L{Route}; L{None} if
        there is no way.
    @param ids: makes the numbers of notices.
    @param wall: the time of day.
    @param hostname: who tells.
    @param inThread: runs a function outside the reactor thread.
    @ivar returnOctets: no larger message is sent back whole.
    """

    def __init__(
        self,
        spool: Any,
        clock: Any,
        take: Callable[[Work], object],
        route: Callable[[Mailbox], Route | None],
        ids: TransactionIds,
        wall: Callable[[], float],
        hostname: str,
        inThread: Callable[..., Deferred[Any]],
        returnOctets: int,
    ) -> None:
        self._spool = spool
        self._take = take
        self._route = route
        self._ids = ids
        self._wall = wall
        self._hostname = hostname
        self._inThread = inThread
        self.returnOctets = returnOctets
        self._telling: dict[int, bool] = {}
        self._idle: Deferred[None] | None = None
        self._stopping = False
        self._loop = LoopingCall(self._sweep)
        self._loop.clock = clock

    def start(self) -> None:
        """
        Look for those who have waited for too long, from now on.
        """
        self._loop.start(EVERY_SECONDS)

    def stop(self) -> Deferred[Any]:
        """
        @return: a Deferred that fires when nothing is under way any longer.
        """
        self._stopping = True
        if self._loop.running:
            self._loop.stop()
        if not self._telling:
            return succeed(None)
        self._idle = Deferred()
        return self._idle

    def tell(self, number: int) -> None:
        """
        Some recipients of a message are ready to be told of.
        """
        if number in self._telling:
            self._telling[number] = True
        else:
            self._run(number, self._spool.notices(1, number))

    def _sweep(self) -> Any:
        """
        The next sweep waits for this one.
        """
        d = self._spool.notices(SWEEP)
        d.addCallback(self._swept)
        d.addErrback(self._failed, "the queue")
        return d

    @inlineCallbacks
    def _swept(self, works: Sequence[Work]) -> Any:
        for work in works:
            if work.envelope.transaction not in self._telling and not self._stopping:
                yield self._run(work.envelope.transaction, succeed([work]))

    def _run(self, number: int, works: Deferred[Sequence[Work]]) -> Deferred[Any]:
        """
        One message at a time: nobody is told twice.
        """
        self._telling[number] = False
        works.addCallback(self._tellAll)
        works.addErrback(self._failed, f"message {number}")
        return works.addCallback(self._told, number)

    def _failed(self, failure: Any, what: str) -> None:
        # What is leased comes back with the end of its lease.
        _log.error(
            "cannot tell senders about {what}: {error}",
            what=what,
            error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
        )

    def _told(self, _: Any, number: int) -> None:
        again = self._telling.pop(number)
        if again and not self._stopping:
            self.tell(number)
        if not self._telling and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    @inlineCallbacks
    def _tellAll(self, works: Sequence[Work]) -> Any:
        for work in works:
            yield self._tell(work)

    def _tell(self, work: Work) -> Any:
        """
        Who of one message is to be told of, and how they stand afterwards.
        """
        sender = work.envelope.sender
        route = None if sender is None else self._route(sender)
        wanted = []
        standings: dict[Addressee, Standing] = {}
        for addressee in work.addressees:
            action = addressee.action
            standings[addressee] = _told(addressee)
            if sender is None or not isWanted(addressee.recipient.notify, action):
                if action in ("failed", "expired", "damaged"):
                    self._say(work, addressee, f"{action}, and nobody is to be told")
                continue
            if action == "stuck":
                self._say(work, addressee, "was kept for its sender, who could never be told")
            elif route is not None:
                wanted.append(addressee)
            elif action in ("failed", "expired", "damaged"):
                standings[addressee] = Stuck(KEEP_SECONDS)
                self._say(
                    work, addressee, f"{action}, and there is no way to tell <{sender}>: kept"
                )
        if not wanted:
            return self._spool.record(work, standings)
        assert sender is not None and route is not None
        return self._notice(work, standings, wanted, Recipient(sender, NEVER, route=route))

    def _say(self, work: Work, addressee: Addressee, what: str) -> None:
        _log.error(
            "{transaction} to=<{recipient}> {what}",
            event="untold",
            transaction=work.envelope.id,
            recipient=str(addressee),
            what=what,
        )

    @inlineCallbacks
    def _notice(
        self,
        work: Work,
        standings: dict[Addressee, Standing],
        wanted: Sequence[Addressee],
        recipient: Recipient,
    ) -> Any:
        header, content = yield self._inThread(self._returned, work, wanted)
        now = self._wall()
        envelope = Envelope(
            self._ids.next(now), now, Client("local", 0, self._hostname, "local"), None
        )
        left = max(0.0, (work.expireSeconds or 0.0) - work.ageSeconds)
        notification = Notification(  # S-5
            work.envelope, wanted, header, content, self._hostname, envelope.id, now, left
        )
        data, parameters = notification.build()
        envelope = attrs.evolve(envelope, parameters=parameters, listener="notices")
        writer = self._spool.newBody(envelope.transaction)
        writer.write(data)
        try:
            message = yield writer.finish()
            notice = (envelope, message, [Addressee(recipient)])
            works = yield self._spool.record(work, standings, [notice])
        except Exception:
            writer.abort()
            raise
        self._log(work, envelope, wanted)
        for one in works:
            self._take(one)

    def _log(self, work: Work, envelope: Envelope, wanted: Sequence[Addressee]) -> None:
        for addressee in wanted:
            _log.info(
                "{transaction} to=<{recipient}> {action}: <{sender}> is told by {notice}",
                event="notice",
                transaction=work.envelope.id,
                recipient=str(addressee),
                action=addressee.action,
                sender=work.envelope.senderText,
                notice=envelope.id,
            )

    def _returned(self, work: Work, wanted: Sequence[Addressee]) -> tuple[bytes, bytes | None]:
        """
        What is sent back of a message, its header and perhaps all of it (in a
        thread): nothing that is not as it came in.
        """
        message = work.message
        if not message.fresh:
            try:
                size, digest = message.measured()
            except OSError:
                return b"", None
            if (size, digest) != (message.size, message.digest):
                return b"", None
        failed = any(one.action in ("failed", "expired") for one in wanted)
        asked = work.envelope.parameters
        # What is binary can only be a part of what is binary (RFC 3030 §3), and
        # what needs TLS may not go without it (RFC 8689 §5).
        whole = failed and asked.ret == "FULL"
        whole = whole and asked.body != "BINARYMIME" and not asked.requireTLS
        if not whole or message.size > self.returnOctets:
            return message.header, None
        with message.open() as file:
            return message.header, file.read()


#: Nobody is told what becomes of a notice.
NEVER = frozenset({"NEVER"})


def _told(addressee: Addressee) -> Standing:
    """
    How somebody stands when there is nothing more to be told.
    """
    if addressee.action == "delayed":
        return Warned()
    event = "given up" if addressee.action == "stuck" else addressee.action
    return Gone(event, addressee.reply, addressee.host)
