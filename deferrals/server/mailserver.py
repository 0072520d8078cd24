"""
The server: listeners in front, stages behind them, the spool, and the scheduler
of deliveries.  Everything is wired here, for programs that embed it and for
C{twistd deferrals}, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import EllipsisType
from typing import Any

import attrs
from twisted.application import service
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure

from deferrals.auth.authenticator import Authenticator
from deferrals.auth.throttle import Throttle
from deferrals.deferreds import SharedResult, timeOfDay
from deferrals.interfaces import IQueue, ISpool, Work
from deferrals.logger import Logger
from deferrals.model.address import Mailbox, normalDomain
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.ids import TransactionIds
from deferrals.model.limits import (
    BOUNCE_OCTETS,
    GRACE_SECONDS,
    MAX_DELIVERING,
    MAX_JUDGING,
    Limits,
)
from deferrals.model.listener import ListenerSettings
from deferrals.model.portion import WHOLE, Portion
from deferrals.model.schedule import Schedule
from deferrals.model.status import Status
from deferrals.model.verdict import EnvelopeAnswer, Outcome, Route
from deferrals.relay.notices import Author
from deferrals.server.digests import Post
from deferrals.server.leftqueue import LeftQueue
from deferrals.server.listeners import PROXIED, Listeners
from deferrals.server.mixed import MixedPolicies
from deferrals.server.queue import Queue
from deferrals.server.secret import Secret
from deferrals.server.services import Services
from deferrals.server.stages import (
    Choices,
    Contents,
    CurrentStages,
    Deliveries,
    Envelopes,
    Notices,
    ReversePath,
    Schedules,
    Stages,
)
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.settings import Backend, Refused
from deferrals.stages.envelope.rules import RuleTable
from deferrals.stages.envelope.submission import Submission, SubmissionSettings

_log = Logger(namespace="deferrals")

#: What settings are, by the names of the arguments.
_TYPES = {
    "settings": ListenerSettings,
    "services": Services,
    "submission": SubmissionSettings,
}


class MailServer(service.Service):
    """
    A mail server.  It starts once, as a service or by L{start}; it never ends
    the process, and there may be several in one.

    @param reactor: timers and the network.
    @param hostname: how it introduces itself.
    @param envelope: the stages that are asked about each recipient, in this
        order.  A recipient that none of them lets in is refused, 550 5.7.1.
    @param content: the stages that judge the content, or those of each policy,
        by its name.
    @param delivery: where mail goes, or several deliveries by name.  The spool
        remembers the names.
    @param spool: a directory; or a spool, which belongs to this server from now
        on; C{None} keeps mail in memory, and it is gone with the process.
    @param settings: of listeners that are not given their own.  Its limits on
        connections are those of all listeners together.
    @param checkers: check passwords.
    @param schedule: when a delivery is tried again, or each of them, by name.
    @param notices: the name of the delivery by which senders are told of
        failures and delays (DSNs); or a function that finds a
        L{Route<deferrals.model.verdict.Route>} by the sender's
        L{Mailbox<deferrals.model.address.Mailbox>}; C{None} tells no sender.
    @param quarantines: by policy, the name of the delivery that gets what the
        policy refuses of a message that had to be accepted (C{Mixed.FILE}).
    @param reversePath: finds the reverse path under which mail of a sender is sent on,
        by a delivery such as C{forward}; by default that is the sender.
    @param maxJudging: messages in the content stages at once.
    @param maxDelivering: attempts to deliver that are under way at once.
    @param submission: what users who have logged in may send; by default with
        their own address as the sender.
    @param returnOctets: no larger message is sent back whole in a notice.
    @param services: those that stages were built with, which no other server has; by
        default it makes its own.
    @param reverseDNS: whether DNS is asked for the names of clients.
    @param worker: which of several processes this is, 0 to 255; it is in the ids of
        transactions.
    @ivar refused: is told of refusals, see
        L{Backend<deferrals.smtp.server.settings.Backend>}; set before it starts.
    @ivar status: what the server counts, and what state it is in.
    @ivar queue: the operator's view of the queue; C{None} where it is in
        memory.
    @raise TypeError: an object does not provide its interface, or cannot be
        hashed.
    @raise ValueError: a name is no policy's, or no delivery's.
    """

    _started: SharedResult[MailServer] | None = None
    _stopped: SharedResult[None] | None = None
    _isUp = False
    _portion = WHOLE
    refused: Refused | None = None

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        hostname: str,
        envelope: Envelopes,
        content: Contents = (),
        delivery: Deliveries,
        spool: str | os.PathLike[str] | ISpool | None = None,
        settings: ListenerSettings | None = None,
        checkers: Sequence[ICredentialsChecker] = (),
        schedule: Schedules = Schedule(),
        notices: Notices = None,
        quarantines: Mapping[str, str] | None = None,
        reversePath: ReversePath | None = None,
        maxJudging: int = MAX_JUDGING,
        maxDelivering: int = MAX_DELIVERING,
        returnOctets: int = BOUNCE_OCTETS,
        submission: SubmissionSettings = SubmissionSettings(),
        services: Services | None = None,
        reverseDNS: bool = True,
        worker: int | None = None,
    ) -> None:
        _checkNumbers(maxJudging=maxJudging, maxDelivering=maxDelivering)
        _checkNumbers(least=0, returnOctets=returnOctets)
        _checkTypes(settings=settings, services=services, submission=submission)
        self._hostname = name = normalDomain(hostname)
        self._settings = settings or ListenerSettings()
        choices = Choices(envelope, content, delivery, schedule, notices, quarantines, reversePath)
        self._choices = choices
        self._services = services = services or Services(reactor, hostname=self._hostname)
        self.status: Status = services.status
        self._stages = stages = _current(choices, maxJudging, name, services)
        self._throttle = Throttle(services.limits, self._settings.limits, reactor)
        self._connections = ConnectionLimits(services.limits, self._settings.limits)
        self._ids = ids = TransactionIds(os.getpid() if worker is None else worker)
        self._queue = Queue(spool, services, name, ids, stages, maxDelivering, returnOctets)
        self._left: dict[int, LeftQueue] = {}
        self.queue: IQueue | None = self._queue.view
        self._services.ownLimits.keepIn(self._queue.spool)
        self._secret = Secret(self._queue.spool, services.ownNotes)
        self._authenticator = _authenticator(checkers, self._throttle, self._secret)
        self._submission = Submission(submission, self._services)
        self.status.show("submission", lambda: self._submission.describe())
        self._mixed, self._reverseDNS = MixedPolicies(services), reverseDNS
        self.listeners = Listeners(reactor, self._backend)
        services.addCurrent(stages)
        services.addListening(lambda: self.listeners.sockets)

    # Where it listens.

    @property
    def addresses(self) -> Sequence[IAddress]:
        """
        Where it listens now, with the ports that the system has chosen.
        """
        return list(self.listeners.addresses.values())

    def listenOn(
        self, endpoint: str | IStreamServerEndpoint, settings: ListenerSettings | None = None
    ) -> None:
        """
        Listen there, from the start on; at once where it has started.

        @param endpoint: a Twisted server endpoint, or its description; one that
            begins with C{haproxy:} expects PROXY headers.
        @raise TypeError: it is neither, or these are no settings.
        @raise ValueError: the description is none, or settings ask for what
            this server does not have.
        @raise CannotListenError: it has started, and the port cannot be had.
        """
        name = endpoint if isinstance(endpoint, str) else type(endpoint).__name__
        chosen = self._completed(settings, name)
        if isinstance(endpoint, str):
            chosen = attrs.evolve(chosen, proxied=chosen.proxied or endpoint.startswith(PROXIED))
            endpoint = self.listeners.endpoint(endpoint)
        elif not IStreamServerEndpoint.providedBy(endpoint):
            raise TypeError(
                f"endpoint: expected a server endpoint, or its description: {endpoint!r}"
            )
        self.listeners.add(endpoint, chosen)
        if self._started is not None:
            self.listeners.openNow()

    def factory(self, settings: ListenerSettings | None = None) -> IProtocolFactory:
        """
        Sessions for a port that the program has of its own.
        """
        return self.listeners.add(None, self._completed(settings, "factory")).factory

    def _completed(self, settings: ListenerSettings | None, name: str) -> ListenerSettings:
        _checkTypes(settings=settings)
        settings = settings or self._settings
        if settings.authentication == "required" and self._authenticator is None:
            raise ValueError("auth: clients cannot log in without checkers")
        _checkFiling([settings], self._stages.now)
        return attrs.evolve(
            settings, hostname=settings.hostname or self._hostname, name=settings.name or name
        )

    def _backend(self, settings: ListenerSettings) -> Backend:
        stages, submission = self._stages, self._submission
        admissions = self._services.admissions
        envelope = admissions.placing(stages.now.envelope)
        attempt = partial(self._attempt, submission) if settings.enumerate == "delivery" else None
        logins = self._authenticator is not None or bool(settings.xclient)
        return Backend(
            ids=self._ids,
            senders=[submission, *stages.now.senders] if logins else stages.now.senders,
            observers=[*stages.now.observers, admissions],
            envelope=submission.counting(envelope) if logins else envelope,
            content=stages.content,
            spool=self._queue.spool,
            release=partial(self._release, submission),
            weigh=submission.weigh if logins else None,
            foresee=stages.foreseen.refusals if stages.foreseen.seesMessages else None,
            status=self.status,
            mixed=self._mixed.forListener(settings, stages.now.quarantines.get, stages.canWriteTo),
            connectionLimits=self._connections,
            authenticator=self._authenticator,
            submitter=submission.submitter if logins else None,
            findName=self._services.hostnames.find if self._reverseDNS else None,
            refused=self.refused,
            binary=stages.now.takesBinary,
            attempt=attempt,
        )

    def _release(self, submission: Submission, work: Work) -> None:
        """
        A message is ours.
        """
        if submission.isHeld(work.envelope):
            self._queue.hold(work)
        else:
            self._queue.release(work)

    def _attempt(
        self, submission: Submission, work: Work, handsBack: bool
    ) -> Deferred[dict[int, Outcome]]:
        """
        The same, where its delivery is waited for.
        """
        if not submission.isHeld(work.envelope):
            return self._queue.attempt(work, handsBack)
        self._queue.hold(work)
        return succeed({})

    @property
    def post(self) -> Post:
        """
        How a message of ours goes out.
        """
        queue, clock = self._queue, self._services.reactor
        author = Author(self._hostname, self._ids, lambda: timeOfDay(clock))
        return Post(queue.spool, author, queue.release)

    # How it is.

    @property
    def reasons(self) -> list[str]:
        """
        Why mail cannot be taken now: C{starting}, C{spool}, C{listeners},
        C{stopping}; none, where it can.
        """
        isListening = all(one.port for one in self.listeners.named.values() if one.endpoint)
        wrong = {
            "starting": not self._isUp,
            "spool": self._isUp and not self._queue.isUsable,
            "listeners": self._isUp and not isListening,
            "stopping": self._stopped is not None,
        }
        return [name for name, isSo in wrong.items() if isSo]

    @property
    def sessionsOpen(self) -> dict[str, int]:
        """
        How many sessions there are, by listener.
        """
        return {name: len(one.factory.sessions) for name, one in self.listeners.named.items()}

    @property
    def backedOff(self) -> int:
        """
        How many destinations are left alone.
        """
        return self._queue.backedOff

    def routeOf(self, address: Mailbox) -> Route | None:
        """
        Where mail for an address goes, and by which policy it is judged, as rules say it;
        C{None} where none lets it in.
        """
        envelope = self._stages.now.envelope
        return envelope.route(address) if isinstance(envelope, RuleTable) else None

    async def askSome(
        self, envelope: Envelope, recipient: Recipient, isAsked: Callable[[str], bool]
    ) -> EnvelopeAnswer | None:
        """
        See L{RuleTable.askSome}; C{None} where there are no rules.
        """
        stage = self._stages.now.envelope
        if not isinstance(stage, RuleTable):
            return None
        return await stage.askSome(envelope, recipient, isAsked)

    def useOf(self, delivery: str) -> str:
        """
        What kind of delivery has a name now; C{"none"} where there is none.
        """
        stage = self._stages.delivery(delivery)
        return "none" if stage is None else self.status.useOf(stage)

    # Its life.

    def privilegedStartService(self) -> None:
        """
        Listen, while the process may still bind low ports.

        @raise CannotListenError: a port cannot be had.
        """
        service.Service.privilegedStartService(self)
        self._services.admissions.reading()
        self.listeners.openNow()

    def startService(self) -> None:
        """
        Start, as part of an application: what is wrong goes to the log, and the
        ports are closed again.
        """
        service.Service.startService(self)
        self.start().addErrback(self._notStarted)

    def start(self) -> Deferred[MailServer]:
        """
        Open the spool, listen, and deliver what is queued.

        @return: a Deferred that fires when mail can be taken.  It fails with
            L{SpoolError<deferrals.errors.SpoolError>} where the spool is
            another process's or cannot be written, and with
            C{CannotListenError}.
        @raise RuntimeError: it has been started before, or stopped.
        """
        if self._started is not None or self._stopped is not None:
            raise RuntimeError("a MailServer starts once")
        self._started = SharedResult(Deferred.fromCoroutine(self._start()))
        return self._started.wait()

    async def _start(self) -> MailServer:
        try:
            await self._queue.start()
        except BaseException:
            await self.listeners.close()
            raise
        self._services.admissions.read()
        await self._services.ownLimits.load()
        await self._secret.load()
        try:
            await self.listeners.open()
        except BaseException:
            await self._queue.stop()
            raise
        self._queue.begun()
        self._connections.isEarly = False
        self._isUp = True
        return self

    def waits(self) -> None:
        """
        The queue cannot be had yet: whoever connects is turned away until it can.
        """
        self._connections.isEarly = True

    def drain(self, worker: int, directory: str) -> None:
        """
        Deliver what a worker has left that there is no longer.
        """
        services, ids = self._services, TransactionIds(worker)

        def make() -> Queue:
            now = self._queue
            limits = now.maxDelivering, now.returnOctets
            name, stages = self._hostname, self._stages
            left = Queue(directory, services, name, ids, stages, *limits, isLeft=True)
            left.shareWith(self._portion)
            return left

        left = self._left[worker] = LeftQueue(directory, make, services.reactor, services.inThread)
        left.start()

    def shareWith(self, portion: Portion) -> None:
        """
        Other servers share what protects other machines: so many attempts to deliver are
        under way at once.

        @param portion: what this one has of the whole.
        """
        self._portion = portion
        for queue in self._queues:
            queue.shareWith(portion)

    @property
    def _queues(self) -> list[Queue | LeftQueue]:
        return [self._queue, *self._left.values()]

    def beCareful(self) -> None:
        """
        See L{Queue.beCareful}.
        """
        self._queue.beCareful()

    @property
    def leftQueues(self) -> dict[int, IQueue | None]:
        """
        An operator's views of what is drained, by the worker that has left it; C{None}
        of what cannot be opened yet.
        """
        views = {worker: left.view for worker, left in self._left.items()}
        return {one: view for one, view in views.items() if view or self._left[one].isAway}

    def _notStarted(self, failure: Failure) -> None:
        _log.critical("the mail server cannot start: {error}", error=failure.getErrorMessage())

    def stopService(self) -> Deferred[None]:
        """
        Stop, as part of an application.
        """
        service.Service.stopService(self)
        return self.stop()

    def stop(self, graceSeconds: float = GRACE_SECONDS) -> Deferred[None]:
        """
        Take no more connections, let transactions end, then deliveries, and
        close the spool.  What is not delivered stays in it.

        @param graceSeconds: how long transactions may take.
        @return: a Deferred that fires when all has ended.
        """
        if self._stopped is None:
            self._stopped = SharedResult(Deferred.fromCoroutine(self._stop(graceSeconds)))
        return self._stopped.wait()

    async def _stop(self, graceSeconds: float) -> None:
        self._queue.giveUp()
        isOpen = await self._isOpen()
        await self.listeners.close()
        await self.listeners.shutdown(graceSeconds)
        self._services.ownLimits.close()
        for left in self._left.values():
            await left.stop()
        if isOpen:
            await self._queue.stop()
        await self._services.nextHops.close()

    async def _isOpen(self) -> bool:
        if self._started is None:
            return False
        try:
            await self._started.wait()
        except Exception:
            return False
        return True

    # Its stages.

    def replace(
        self,
        *,
        envelope: Envelopes | None = None,
        content: Contents | None = None,
        delivery: Deliveries | None = None,
        schedule: Schedules | None = None,
        notices: Notices | EllipsisType = ...,
        quarantines: Mapping[str, str] | None = None,
        reversePath: ReversePath | None = None,
        maxDelivering: int | None = None,
        returnOctets: int | None = None,
        submission: SubmissionSettings | None = None,
        reverseDNS: bool | None = None,
    ) -> None:
        """
        Set other stages, for the transactions that begin from now on; what is
        queued goes to the deliveries that now have its names.  What is not
        given stays as it is.

        @raise TypeError: as the constructor.
        @raise ValueError: as the constructor; nothing has changed.
        """
        given: dict[str, Any] = {
            "envelope": envelope,
            "content": content,
            "delivery": delivery,
            "schedule": schedule,
            "quarantines": quarantines,
            "reversePath": reversePath,
        }
        changes = {key: one for key, one in given.items() if one is not None}
        if notices is not ...:
            changes["notices"] = notices
        _checkTypes(submission=submission)
        choices = attrs.evolve(self._choices, **changes)
        stages = choices.stages()
        _checkFiling(self.listeners.settings, stages)
        _checkGiven(maxDelivering, returnOctets)
        self._stages.set(stages)
        self._choices = choices
        if submission is not None:
            self._submission = Submission(submission, self._services)
        if reverseDNS is not None:
            self._reverseDNS = reverseDNS
        for queue in self._queues:
            queue.replaced(maxDelivering, returnOctets)
        self.listeners.refresh()

    def limitConnections(self, limits: Limits) -> None:
        """
        Let the connections of all listeners together, and what they try to log
        in, go by these limits.
        """
        self._throttle.settings = limits
        self._connections.limits = limits


def _current(choices: Choices, maxJudging: int, name: str, services: Services) -> CurrentStages:
    lift = services.admissions.lifts
    return CurrentStages(choices.stages(), maxJudging, name, services.status, lift)


def _checkNumbers(least: int = 1, **numbers: int | None) -> None:
    for name, number in numbers.items():
        if type(number) is not int or number < least:
            raise ValueError(f"{name}: expected a number from {least} on, not {number!r}")


def _checkGiven(maxDelivering: int | None, returnOctets: int | None) -> None:
    if maxDelivering is not None:
        _checkNumbers(maxDelivering=maxDelivering)
    if returnOctets is not None:
        _checkNumbers(least=0, returnOctets=returnOctets)


def _checkTypes(**values: object) -> None:
    for name, value in values.items():
        if value is not None and not isinstance(value, _TYPES[name]):
            raise TypeError(f"{name}: expected {_TYPES[name].__name__}, not {value!r}")


def _checkFiling(listeners: Iterable[ListenerSettings], stages: Stages) -> None:
    """
    @raise ValueError: no delivery takes the mixed mail that could have to be filed.
    """
    refusing = [policy for policy, judges in stages.content.items() if judges]
    missing = [policy for policy in refusing if policy not in stages.quarantines]
    if missing and any(settings.mayFile for settings in listeners):
        raise ValueError(f"mixed: the policy {missing[0]!r} needs a quarantine")


def _authenticator(
    checkers: Sequence[ICredentialsChecker], throttle: Throttle, secret: Secret
) -> Authenticator | None:
    for checker in checkers:
        if not ICredentialsChecker.providedBy(checker):
            raise TypeError(f"checkers: {checker!r} does not provide ICredentialsChecker")
    return Authenticator(checkers, throttle, secret.get) if checkers else None
