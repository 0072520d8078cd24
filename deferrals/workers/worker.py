"""
A worker: a whole server, whose sockets are its parent's, and which its parent asks on
behalf of operators.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence

from twisted.application import service
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from deferrals.app.service import Change, MailService, Operators, Parts
from deferrals.app.web import queueFigures
from deferrals.config.tables import Config
from deferrals.errors import DeferralsError, ListenError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.workers.dividing import divided
from deferrals.workers.inherited import InheritedEndpoint
from deferrals.workers.launching import LINE, adopt
from deferrals.workers.limits import WorkerLimits
from deferrals.workers.line import Handler, WorkerLine
from deferrals.workers.notes import WorkerNotes
from deferrals.workers.operating import figuresJSON
from deferrals.workers.orphans import LONGER_SECONDS, Orphan
from deferrals.workers.reports import Reporter

_log = Logger(namespace="deferrals.workers")

_EVERY_SECONDS = 0.2


class _Asked:
    """
    Where operators are answered: the parent asks for them.

    @ivar operators: by the worker whose spool it is; none, while none is answered.
    """

    operators: Operators = dict

    def __call__(self, operators: Operators) -> _Asked:
        self.operators = operators
        return self

    def stopListening(self) -> None:
        """
        No more.
        """
        self.operators = dict


class Worker(service.Service):
    """
    @param number: which one it is.
    @param text: the configuration that is in force.
    @param load: makes a configuration of its text, or raises L{ConfigError}.
    @param checkers: check passwords.
    @param reopen: opens the log's file anew.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        reactor: IReactor,
        load: Callable[[str], Config],
        checkers: Sequence[ICredentialsChecker],
        reopen: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._count = config.workers
        self._load = load
        self._reopen = reopen
        self._text = config.text
        self._number = number
        self._sockets: dict[str, InheritedEndpoint] = {}
        self._asked = _Asked()
        self._change: Change | None = None
        self._settled: Deferred[None] = Deferred()
        handlers: dict[str, Handler] = {
            "start": self._start,
            "prepare": self._prepare,
            "commit": self._commit,
            "undo": self._undo,
            "reopen": self._reopened,
            "stop": self._end,
            "call": self._call,
            "figures": self._figures,
        }
        self.line = WorkerLine(reactor, handlers, self._left)
        parts = Parts(
            worker=number,
            endpoint=self._endpoint,
            notes=WorkerNotes(reactor, number, self.line),
            limits=WorkerLimits(reactor, self.line),
            operators=self._asked,
            pages=lambda: self._pages,
        )
        self._pages = config.web
        own = divided(config, self._count)
        self.mail = MailService(own, reactor, self._reload, checkers, parts)
        self.mail.settled = self._isSettled
        self._reporter = Reporter(reactor, self.line, self._report)

    def startService(self) -> None:
        """
        Wait for what the parent says.
        """
        service.Service.startService(self)
        adopt(self._reactor, LINE, self.line)

    def stopService(self) -> Deferred[None]:
        service.Service.stopService(self)
        self.line.tell("draining")
        for one in self._sockets.values():
            one.close()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._undo()
        await self.mail.stopService()
        await self._reporter.stop()
        self.line.close()

    def _end(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it stops already
            self._reactor.stop()

    def _left(self, reason: Failure) -> None:
        """
        The parent is gone, and with it the reason to be.
        """
        if self.running:
            _log.error("the parent is gone: this worker ends")
            self._end()

    # Its start.

    async def _start(
        self, names: list[tuple[str, int]], mayBeDeadly: bool, descriptors: Sequence[int] = ()
    ) -> None:
        """
        @param mayBeDeadly: whether there may be a message of which this process dies.
        """
        self._take(names, descriptors)
        await self._awaitOrphan()
        if not self.running:
            raise DeferralsError("it stops")
        if mayBeDeadly:
            self.mail.server.beCareful()
        self.mail.privilegedStartService()
        self.mail.startService()
        await self._settled
        self._forget()  # a reload that was under way may not have come to its end

    def _isSettled(self, failure: Failure | None) -> None:
        if self._settled.called:  # it has waited, and in vain
            self._end()
        elif failure is None:
            self._reporter.start()
            self._settled.callback(None)
        else:
            self._settled.errback(failure)

    async def _awaitOrphan(self) -> None:
        """
        Wait for a process that has our spool, and is to end: its parent has died.
        """
        ends = self._reactor.seconds() + self.mail.config.grace + LONGER_SECONDS
        orphan = Orphan(self.mail.config.spoolOf(self._number))
        while orphan.isThere() and self._reactor.seconds() < ends:
            await deferLater(self._reactor, _EVERY_SECONDS)

    # Its sockets.

    def _take(self, names: list[tuple[str, int]], descriptors: Sequence[int]) -> None:
        for (name, backlog), one in zip(names, descriptors, strict=True):
            own = socket.socket(fileno=one)
            self._sockets[name] = InheritedEndpoint(self._reactor, own, backlog)

    def _endpoint(self, name: str) -> IStreamServerEndpoint:
        """
        @raise ListenError: the parent has not opened it.
        """
        if name not in self._sockets:
            raise ListenError(name, "the parent has not opened it")
        return self._sockets[name]

    def _forget(self) -> None:
        """
        Close the sockets that are not listened on.
        """
        for name in set(self._sockets) - set(self.mail.server.listeners.named):
            self._sockets.pop(name).close()

    # A reload.

    def _reload(self) -> Config:
        config = self._load(self._text)
        self._pages = config.web
        return divided(config, self._count)

    async def _prepare(
        self, text: str, names: list[tuple[str, int]], descriptors: Sequence[int] = ()
    ) -> None:
        await self._undo()
        self._take(names, descriptors)
        await self.mail.reloads.acquire()
        self._text = text
        try:
            self._change = await self.mail.prepare()
        except BaseException:
            self._unlock()
            raise

    async def _commit(self) -> None:
        change, self._change = self._change, None
        if change is None:
            raise DeferralsError("nothing was prepared")
        try:
            await self.mail.commit(change)
        finally:
            self._unlock()

    async def _undo(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            await self.mail.undo(change)
            self._unlock()

    def _unlock(self) -> None:
        self._forget()
        self.mail.reloads.release()

    # What it is told.

    def _reopened(self) -> None:
        self._reopen()

    def _call(self, spool: int, name: str, *args: JSON) -> Deferred[JSON]:
        """
        See L{Operator.call}.

        @param spool: this worker's own number, or that of one that there is no longer.
        """
        operator = self._asked.operators().get(spool)
        if operator is None:
            raise DeferralsError("it is not there for operators")
        return operator.call(name, *args)

    def _report(self) -> dict[str, JSON]:
        """
        See L{Reporter}.
        """
        server, said = self.mail.server, self.mail.describe()
        return {
            "counts": server.status.dump(),
            "sessions": {**server.sessionsOpen},
            "backed_off": server.backedOff,
            "left": [*server.leftQueues],
            **{name: said[name] for name in ("parts", "reasons", "rates")},
        }

    def _figures(self) -> Deferred[JSON]:
        return queueFigures(self.mail.server).addCallback(figuresJSON)
