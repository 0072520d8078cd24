"""
Recording what became of recipients, and doing so again while the spool cannot be
written (a full disk).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        done: Callable[[], None],
        againSeconds: float = RECORD_SECONDS,
    ) -> None:
        """
        @param done: called when it is recorded, or given up because the server stops.
        @param againSeconds: how long to wait before it is recorded again.
        """
        d = self._spool.record(work, dispositions)
        d.addCallbacks(
            lambda _: done(),
            self._notRecorded,
            errbackArgs=(work, dispositions, done, againSeconds),
        )

    def _notRecorded(
        self,
        failure: Failure,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        done: Callable[[], None],
        againSeconds: float,
    ) -> None:
        _log.error(
            "{transaction}: an outcome could not be recorded {consequence}: {error}",
            transaction=work.envelope.id,
            consequence="and its delivery will be repeated" if self.isStopping else "yet",
            error=failure.getErrorMessage(),
        )
        if self.isStopping:
            done()
            return
        longer = min(2 * againSeconds, RECORD_LONGEST_SECONDS)
        self._clock.callLater(againSeconds, self.record, work, dispositions, done, longer)
