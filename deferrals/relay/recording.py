"""
Recording what became of recipients, and doing so again while the spool cannot be
written (a full disk).
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.interfaces import ISpool, Work
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Disposition

_log = Logger(namespace="deferrals.delivery")

#: How long to wait before an outcome is recorded again; twice as long each time.
RECORD_SECONDS, RECORD_LONGEST_SECONDS = 1.0, 60.0


class Recorder:
    """
    @param spool: where it is recorded.
    @param clock: timers.
    @ivar isStopping: whether the server stops: then nothing is tried again.
    """

    def __init__(self, spool: ISpool, clock: IReactorTime) -> None:
        self._spool = spool
        self._clock = clock
        self.isStopping = False

    def record(self, work: Work, dispositions: Mapping[Addressee, Disposition]) -> Deferred[None]:
        """
        @return: a Deferred that fires when it is recorded, or given up because the
            server stops; it does not fail.
        """
        done: Deferred[None] = Deferred()
        self._record(done, work, dispositions, RECORD_SECONDS)
        return done

    def _record(
        self,
        done: Deferred[None],
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        againSeconds: float,
    ) -> None:
        d = self._spool.record(work, dispositions)
        d.addCallbacks(
            lambda _: done.callback(None),
            self._notRecorded,
            errbackArgs=(done, work, dispositions, againSeconds),
        )

    def _notRecorded(
        self,
        failure: Failure,
        done: Deferred[None],
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        againSeconds: float,
    ) -> None:
        _log.error(
            "{transaction}: an outcome could not be recorded {consequence}: {error}",
            transaction=work.envelope.id,
            consequence="and its delivery will be repeated" if self.isStopping else "yet",
            error=failure.getErrorMessage(),
        )
        if self.isStopping:
            done.callback(None)
            return
        longer = min(2 * againSeconds, RECORD_LONGEST_SECONDS)
        self._clock.callLater(againSeconds, self._record, done, work, dispositions, longer)
