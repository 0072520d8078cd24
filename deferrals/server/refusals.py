"""
Keeps what was refused for recipients: beside the way of mail, which never waits for it.

A refusal is taken up where the recipient's verdict stands, which is before the sender has
its reply: what is lost in a crash are refusals of the last seconds, or one is known whose
sender comes again.  What is too much at once is not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.deferreds import CancelledError, errorText, timeOfDay, withDeadline
from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import IMessage, IReactor, IRefusalStore
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.admission import Proofs
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.refusal import Refusal, RefusalSettings, headerText, short
from deferrals.model.verdict import EnvelopeAnswer, Refuse, Route
from deferrals.server.admissions import Admissions
from deferrals.server.proving import Prover
from deferrals.spool.sqlite.refusals import SqliteRefusals
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.refusals")

#: So many refusals wait at once to be kept; and so many octets of messages with them.
MOST_WAITING = 2000
MOST_OCTETS = 16 << 20

#: So many are looked at side by side.
CONCURRENCY = 20

#: How long may be asked what a message proves of its sender, in seconds.
PROOF_SECONDS = 30.0

#: How often what is known is written, and how often what is old is removed, in seconds.
WRITE_SECONDS = 1.0
TRIM_SECONDS = 60.0

#: Between two pieces of removing.
PIECE_SECONDS = 0.2


class People(Protocol):
    """
    What is known of recipients.
    """

    def routeOf(self, address: Mailbox) -> Route | None:
        """
        @return: what its rule says of it; C{None} where none lets it in.
        """

    async def askSome(
        self, envelope: Envelope, recipient: Recipient, isAsked: Callable[[str], bool]
    ) -> EnvelopeAnswer | None:
        """
        @return: what some of its rule's checks say of a recipient.
        """


@attrs.frozen(eq=False)
class _Happened:
    """
    A refusal that was told of.
    """

    time: float
    envelope: Envelope
    recipient: Recipient
    kind: str
    verdict: Refuse
    message: IMessage | None

    @property
    def octets(self) -> int:
        """What it holds in memory."""
        message = self.message
        if message is None:
            return 0
        return message.size if message.inMemory else len(message.header)


class Refusals:
    """
    @param store: where they are kept.
    @param people: what is known of recipients.
    @param prover: finds out what messages prove.
    @param admissions: know whose refusals a recipient can lift.
    @param isFirst: whether this process removes what is old: of several, one does.
    @param isShared: whether the store is other machines', too: then a process that has kept
        none removes none of theirs before its time.
    @ivar settings: what is kept, and for how long.
    @ivar kept: how many there are, as far as is known.
    """

    def __init__(
        self,
        store: IRefusalStore,
        reactor: IReactor,
        people: People,
        prover: Prover,
        admissions: Admissions,
        settings: RefusalSettings,
        isFirst: bool = True,
        isShared: bool = False,
    ) -> None:
        self.store = store
        self.settings = settings
        self.kept = 0
        self._reactor = reactor
        self._people = people
        self._prover = prover
        self._admissions = admissions
        self._isFirst = isFirst
        self._isOthers = isShared
        self._isAway = False
        self._waiting: deque[_Happened] = deque()
        self._octets = 0
        self._isBusy = False
        self._running: set[Deferred[None]] = set()
        self._known: list[tuple[str, Refusal]] = []
        self._writing: IDelayedCall | None = None
        self._isWriting = False
        self._dropped = 0
        self._trimming = LoopingCall(lambda: Deferred.fromCoroutine(self._trim()))
        self._trimming.clock = reactor

    def start(self) -> None:
        """
        From now on.
        """
        if self._isFirst:
            self._trimming.start(TRIM_SECONDS).addErrback(
                lambda failure: _log.failure("refusals", failure)
            )

    async def stop(self) -> None:
        """
        Write what is known, and no more.
        """
        if self._trimming.running:
            self._trimming.stop()
        self._waiting.clear()
        for one in list(self._running):
            one.cancel()
        if self._writing is not None and self._writing.active():
            self._writing.cancel()
        await self._write()
        self._dropped += len(self._known)
        self._sayDropped()
        await self.store.close()

    # What is told of.

    def refused(
        self,
        envelope: Envelope,
        recipient: Recipient,
        kind: str,
        verdict: Refuse,
        message: IMessage | None,
    ) -> None:
        """
        See L{Backend<deferrals.smtp.server.settings.Backend>}.
        """
        if not self.settings.keep or not verdict.reply.isPermanent:
            return  # one that is refused for now comes again by itself
        told = _Happened(timeOfDay(self._reactor), envelope, recipient, kind, verdict, message)
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        if self._octets + told.octets > MOST_OCTETS:
            told = attrs.evolve(told, message=None)
        self._octets += told.octets
        self._waiting.append(told)
        self._next()

    def _next(self) -> None:
        if self._isBusy:
            return  # the loop below goes on
        self._isBusy = True
        while self._waiting and len(self._running) < CONCURRENCY:
            told = self._waiting.popleft()
            d = Deferred.fromCoroutine(self._look(told))
            self._running.add(d)
            d.addErrback(_notKept, told.envelope)
            d.addBoth(self._looked, told, d)
        self._isBusy = False

    def _looked(self, _: object, told: _Happened, d: Deferred[None]) -> None:
        self._running.discard(d)
        self._octets -= told.octets
        self._next()

    async def _look(self, told: _Happened) -> None:
        recipient = told.recipient
        route = recipient.route or self._people.routeOf(recipient.address)
        if route is None or (told.kind == "envelope" and not await self._counts(told, route)):
            return
        user, _ = recipient.routed(route).parted()
        proofs = await withDeadline(
            self._reactor, PROOF_SECONDS, self._prover.proofs, told.envelope, told.message
        ).addErrback(_notProved, told.envelope)
        if len(self._known) >= MOST_WAITING:
            self._dropped += 1  # what keeps them is slower than they come
            return
        self._known.append((user.key, self._refusal(told, route, proofs)))
        self._writeSoon()

    async def _counts(self, told: _Happened, route: Route) -> bool:
        """
        Whether an envelope's refusal is because of the sender, and the recipient is one
        that there is.
        """
        refused = told.verdict.stage
        if refused not in self._admissions.lifted.get(route.policy, ()):
            return False
        said = await self._people.askSome(
            told.envelope, told.recipient, lambda stage: stage != refused
        )
        return said is not None and not isinstance(said, Refuse)

    def _refusal(self, told: _Happened, route: Route, proofs: Proofs) -> Refusal:
        envelope, settings, verdict = told.envelope, self.settings, told.verdict
        fields: dict[str, str] = {}
        if settings.subject or settings.header_from:
            fields = _fieldsOf(told.message)
        return Refusal(
            time=told.time,
            id=envelope.id,
            recipient=str(told.recipient),
            sender=envelope.senderText,
            client=envelope.client.address,
            hostname=short(envelope.client.hostname),
            headerFrom=fields.get("from") if settings.header_from else None,
            subject=fields.get("subject") if settings.subject else None,
            kind=told.kind,
            policy=route.policy,
            rule=short(verdict.why),
            score=verdict.score,
            reply=short(str(verdict.reply.forRecipient().referring(envelope.reference))),
            admits=proofs.admits(envelope),
        )

    # What is kept.

    def _writeSoon(self) -> None:
        """
        One writing at a time: where the store hangs, no more of them wait for it.
        """
        isPlanned = self._writing is not None and self._writing.active()
        if self._known and not isPlanned and not self._isWriting:
            self._writing = self._reactor.callLater(WRITE_SECONDS, self._writeNow)

    def _writeNow(self) -> None:
        self._isWriting = True
        d = Deferred.fromCoroutine(self._write())
        d.addErrback(lambda failure: _log.failure("refusals", failure))
        d.addCallback(self._written)

    def _written(self, _: None) -> None:
        self._isWriting = False
        self._writeSoon()

    async def _write(self) -> None:
        known, self._known = self._known, []
        if known:
            try:
                await self.store.add(known)
            except (StoreAway, OutcomeUnknown) as error:
                self._keep(known, str(error))
                return
            except SpoolError as error:
                _log.error(
                    "{count} refusals are not kept: {error}", count=len(known), error=str(error)
                )
            else:
                self.kept += len(known)
                self._isAway = False
        if not self._isAway:
            self._sayDropped()

    def _keep(self, known: list[tuple[str, Refusal]], why: str) -> None:
        """
        Write them when the store is back: to do that twice changes nothing.  The oldest stay.
        """
        both = known + self._known
        self._known = both[:MOST_WAITING]
        self._dropped += len(both) - len(self._known)
        if not self._isAway:
            _log.error(
                "refusals wait until they can be kept, {most} at most: {error}",
                most=MOST_WAITING,
                error=why,
            )
        self._isAway = True

    def _sayDropped(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warn(
                "{count} refusals were too many at once, and are not kept",
                event="refusals-dropped",
                count=dropped,
            )

    async def _trim(self) -> None:
        """
        Remove what is older than it may be, a piece after the other.
        """
        settings = self.settings
        entries = settings.entries if settings.keep else 0
        before = timeOfDay(self._reactor) - settings.keep
        if settings.keep:
            self._isOthers = False  # what is kept later on is this machine's to remove, too
        elif self._isOthers:
            before, entries = 0.0, settings.entries
        try:
            left = None
            while self._trimming.running:
                now = await self.store.trim(before, entries)
                if now == left:
                    break
                self.kept = left = now
                await _pause(self._reactor)
        except (StoreAway, OutcomeUnknown):
            pass  # it was logged, and is done the next time
        except SpoolError as error:
            _log.error("what is old cannot be removed: {error}", error=str(error))


def storeAt(path: str, inThread: InThread) -> IRefusalStore:
    """
    @return: the store of all processes of a server.
    """
    return SqliteRefusals(path, inThread)


def _pause(reactor: IReactor) -> Deferred[None]:
    d: Deferred[None] = Deferred()
    reactor.callLater(PIECE_SECONDS, d.callback, None)
    return d


def _fieldsOf(message: IMessage | None) -> dict[str, str]:
    """
    @return: the first From field and the first Subject of a message; none, where it is not
        there.
    """
    found: dict[str, str] = {}
    for name, value in [] if message is None else message.fields():
        if name.lower() in ("from", "subject"):
            found.setdefault(name.lower(), headerText(value))
    return found


def _notProved(failure: Failure, envelope: Envelope) -> Proofs:
    if not failure.check(CancelledError):
        _log.warn(
            "{transaction}: what it proves is not known: {error}",
            transaction=envelope.id,
            error=errorText(failure),
        )
    return Proofs()


def _notKept(failure: Failure, envelope: Envelope) -> None:
    if not failure.check(CancelledError):
        _log.failure("{transaction}: a refusal", failure, transaction=envelope.id)
