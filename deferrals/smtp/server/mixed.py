"""
What a plain sender gets at one listener when its recipients differ: the rules of
L{deferrals.model.mixed} applied to a session's transactions, with what they need
from outside: the message's fingerprint, and whether a sender may be written to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable

import attrs
from twisted.internet.defer import Deferred, succeed

from deferrals.interfaces import IMessage
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.block import Block, Resolution
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Form, Recipient
from deferrals.model.mixed import Memory, Mixed, stableSender
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.transaction import Transaction
from deferrals.model.verdict import NO_MARKS, Accept, Marks, Refuse, Route

_log = Logger(namespace="deferrals.transaction")

_CHUNK_OCTETS = 256 * 1024

#: How much more often a message is refused for now, before it is refused for
#: good while others of it were sent away: some senders refuse these, too.
_PATIENCE = 3

#: The sender of a filed copy may be forged: it is told nothing of the copy.
_NEVER = frozenset({"NEVER"})


@attrs.frozen
class Diversion:
    """
    What becomes of a recipient that refuses a message which was accepted for
    all.

    @ivar reply: how it refuses.
    @ivar quarantine: the delivery that gets its copy; C{None} for none.
    @ivar notify: whether the sender is told by a DSN.
    """

    reply: Reply
    quarantine: str | None = None
    notify: bool = False

    @property
    def kind(self) -> str:
        """
        One word for it, for the counters.
        """
        return "notified" if self.notify else "filed" if self.quarantine else "dropped"

    def addressee(self, recipient: Recipient, seq: int) -> Addressee | None:
        """
        What is written into the spool for it; C{None} where nothing is left to
        do.
        """
        route = recipient.route
        policy = "" if route is None else route.policy
        if self.notify:
            return Addressee(recipient, NO_MARKS, seq, refusal=self.reply)
        if self.quarantine is None:
            return None
        why = Marks(headers=(("X-Deferrals-Refused", str(self.reply)),))
        routed = attrs.evolve(recipient, route=Route(policy, self.quarantine), notify=_NEVER)
        return Addressee(routed, why, seq)


#: How a mixed message is answered, and what becomes of each recipient that
#: refuses it, by its index.
Resolved = tuple[Resolution, dict[int, Diversion]]


def fingerprintOf(message: IMessage) -> str:
    """
    What a message has in common with itself at the next attempt: its
    Message-ID and its body.  Trace fields may have been added since.  Reads
    the whole message.
    """
    digest = hashlib.sha256()
    ids = [value for name, value in message.fields() if name.lower() == "message-id"]
    digest.update("\0".join([*ids, ""]).encode("utf-8"))
    with message.open() as file:
        file.seek(len(message.header))
        while chunk := file.read(_CHUNK_OCTETS):
            digest.update(chunk)
    return digest.hexdigest()


@attrs.frozen(eq=False, kw_only=True)
class MixedPolicy:
    """
    @ivar choice: the listener's.
    @ivar fallback: what follows on C{RETRY} when a message has been refused
        for now too often: C{NOTIFY} or C{FILE}.
    @ivar retryLimit: how often that is.
    @ivar memory: what is remembered; all listeners share it.
    @ivar quarantine: the name of a policy's quarantine delivery, or C{None}.
    @ivar reachable: whether there is a way to write to a sender.
    @ivar mayNotify: whether a DSN may be written to an envelope's reverse-path
        although the client has not authenticated: a Deferred of that.
    @ivar inThread: runs a function outside the reactor thread.
    @ivar status: where events are counted.
    """

    choice: Mixed
    fallback: Mixed
    retryLimit: int
    memory: Memory
    quarantine: Callable[[str], str | None]
    reachable: Callable[[Mailbox], bool]
    mayNotify: Callable[[Envelope], Deferred[bool]]
    inThread: Callable[[Callable[[IMessage], str], IMessage], Deferred[str]]
    status: Status

    def classify(
        self, transaction: Transaction, recipient: Recipient, cohort: Hashable, now: float
    ) -> tuple[Hashable, bool]:
        """
        A recipient of a plain sender, in the light of what is remembered.

        @return: its batch key, which is equal for recipients that may share the
            transaction; and whether it has to wait.  The key is its cohort; or
            the message that it is known to refuse, when no other recipient of
            that message is pending.
        """
        sender = stableSender(transaction.envelope.sender)
        if transaction.form is not Form.PLAIN or not sender or not len(self.memory):
            return cohort, False
        key = recipient.address.key
        found = self.memory.find(sender, key, now)
        transaction.remembered.update(dict.fromkeys(found))
        if self.choice not in (Mixed.SPLIT, Mixed.RETRY):
            return cohort, False
        if self.memory.waits(found, key, transaction.waiting, self.retryLimit):
            return cohort, True
        refused = next((f for f in found if self.memory.refuses(f, key)), None)
        return (cohort if refused is None else ("refuses", refused)), False

    def fingerprint(self, message: IMessage) -> Deferred[str]:
        """
        @return: a Deferred of L{fingerprintOf} C{message}, computed once.
        """
        if message.inMemory:
            return message.shared((__name__, "fingerprint"), fingerprintOf)
        return message.shared(
            (__name__, "fingerprint"), lambda message: self.inThread(fingerprintOf, message)
        )

    def recognise(self, message: IMessage, transaction: Transaction) -> Deferred[IMessage]:
        """
        The data is there.  What may be a remembered message gets its fingerprint
        before anything else.  L{answered} has to know it at once, before the
        sender comes again, and before the spool has removed the message.

        @return: a Deferred of C{message}.
        """
        if not transaction.remembered:
            return succeed(message)
        return self.fingerprint(message).addBoth(lambda _: message)

    async def resolve(
        self, transaction: Transaction, block: Block, message: IMessage, now: float
    ) -> Resolved:
        """
        A plain sender's message for which no one reply is exact.
        """
        accepts, refuses = _sides(transaction, block)
        if transaction.envelope.sender is not None and self.choice in (Mixed.SPLIT, Mixed.RETRY):
            fingerprint = await self.fingerprint(message)
            sender = stableSender(transaction.envelope.sender)
            found = self.memory.learn(
                fingerprint, sender, accepts, refuses, transaction.sentAway, now
            )
            stuck = found.times if self.choice is Mixed.RETRY and accepts else found.stuck + 1
            if stuck <= self.retryLimit * (1 if accepts else _PATIENCE):
                self.status.count("mixed", "refused for now")
                return Resolution.LATER, {}
        if not accepts:
            return Resolution.STRICTEST, {}
        return await self._acceptOrNot(transaction, block)

    async def _acceptOrNot(self, transaction: Transaction, block: Block) -> Resolved:
        choice = self.choice
        if transaction.envelope.sender is None:
            choice = Mixed.FILE  # a bounce has no sender that could be told
        elif choice in (Mixed.SPLIT, Mixed.RETRY):
            choice = self.fallback
        verdicts = enumerate(block.verdicts)
        refusals = {i: v.reply for i, v in verdicts if isinstance(v, Refuse)}
        forNow = any(reply.isTemporary for reply in refusals.values())
        if choice is Mixed.STRICTEST or forNow:
            self.status.count("mixed", "one refusal for all")
            return Resolution.STRICTEST, {}
        return await self._divert(transaction, refusals, choice)

    async def _divert(
        self, transaction: Transaction, refusals: dict[int, Reply], choice: Mixed
    ) -> Resolved:
        """
        What becomes of the recipients that refuse, if the message is accepted.
        It is not accepted where a refusal would be lost by that: there is a
        sender to be told, it cannot be told, and the copy cannot be filed.
        """
        envelope = transaction.envelope
        sender = envelope.sender
        notify = choice is Mixed.NOTIFY and sender is not None and self.reachable(sender)
        if notify and envelope.client.user is None:
            notify = await self.mayNotify(envelope)
        diversions = {}
        for index, reply in refusals.items():
            route = transaction.candidates[index].recipient.route
            name = None if notify or route is None else self.quarantine(route.policy)
            diversions[index] = Diversion(reply, name, notify)
        if sender is not None and not all(map(_leadsOn, diversions.values())):
            self.status.count("mixed", "one refusal for all")
            return Resolution.STRICTEST, {}
        for diversion in diversions.values():
            self.status.count("mixed", diversion.kind)
        return Resolution.ACCEPT, diversions

    def answered(
        self, transaction: Transaction, block: Block, message: IMessage, now: float
    ) -> None:
        """
        The final reply was written: recipients that have a final answer need not
        be remembered any longer.
        """
        if not transaction.remembered or block.final is None or block.final.isTemporary:
            return
        self.status.count("mixed", "retry seen")
        keys = [candidate.recipient.address.key for candidate in transaction.candidates]

        def forget(fingerprint: str) -> None:
            done = self.memory.answered(fingerprint, keys)
            if done is not None:
                self.status.count("seconds to the last recipient", _bucket(now - done.created))

        d = self.fingerprint(message).addCallback(forget)
        d.addErrback(lambda failure: _log.failure("mixed mail is not recognised", failure))


def _leadsOn(diversion: Diversion) -> bool:
    return diversion.kind != "dropped"


def _sides(transaction: Transaction, block: Block) -> tuple[list[str], list[str]]:
    """
    The keys of the recipients that accept, and of those that refuse.
    """
    accepts: list[str] = []
    refuses: list[str] = []
    for candidate, verdict in zip(transaction.candidates, block.verdicts, strict=True):
        side = accepts if isinstance(verdict, Accept) else refuses
        side.append(candidate.recipient.address.key)
    return accepts, refuses


def _bucket(seconds: float) -> str:
    for limit, name in ((10, "< 10 s"), (600, "< 10 min"), (3600, "< 1 h")):
        if seconds < limit:
            return name
    return ">= 1 h"
