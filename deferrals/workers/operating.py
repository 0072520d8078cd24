"""
What operators, and monitoring, see of a server that is several processes: the parent
asks all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

import deferrals
from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.operator.control import Called, Result
from deferrals.operator.several import SeveralOperators, WorkersAnswers
from deferrals.web.metrics import QueueFigures
from deferrals.workers.line import WorkerLine
from deferrals.workers.reports import Reports

#: How long a worker may take to answer, in seconds: an operator's command takes ten at
#: most, its own start included.
ANSWER_SECONDS = 8.0


class _OverLine:
    """
    A worker's operator.

    @param spool: whose spool it is about.
    """

    def __init__(self, line: WorkerLine, spool: int) -> None:
        self._line = line
        self._spool = spool

    def call(self, name: str, *args: JSON) -> Deferred[JSON]:
        """
        See L{Operator.call<deferrals.operator.control.Operator.call>}.
        """
        return self._line.ask("call", self._spool, name, *args, seconds=ANSWER_SECONDS)


class WorkersOperator(SeveralOperators):
    """
    @param clock: the time.
    @param lines: the ways to the workers, by number; C{None} to one that is away.
    @param describe: what the parent says of itself: how the workers are.
    @param takers: which of them take mail.
    @param reports: what they have counted.
    @param reload: reads the configuration again.
    @param isOneQueue: whether they share one queue.
    """

    def __init__(
        self,
        clock: IReactorTime,
        lines: Callable[[], Mapping[int, WorkerLine | None]],
        describe: Callable[[], dict[str, JSON]],
        takers: Callable[[], Collection[int]],
        reports: Reports,
        reload: Callable[[], Deferred[list[str]]],
        isOneQueue: bool = False,
    ) -> None:
        super().__init__(self._operators, isOneQueue)
        self._clock = clock
        self._began = clock.seconds()
        self._lines = lines
        self._describe = describe
        self._takers = takers
        self._reports = reports
        self._reload = reload
        self._figures: dict[int, JSON] = {}  # as each worker said them last

    def _operators(self) -> dict[int, Called | None]:
        lines = self._heard()
        found: dict[int, Called | None] = {
            number: None if line is None else _OverLine(line, number)
            for number, line in lines.items()
        }
        for spool, number in self._reports.left().items():
            line = lines.get(number)
            found[spool] = None if line is None else _OverLine(line, spool)
        return found

    def _heard(self) -> dict[int, WorkerLine | None]:
        """
        A worker that has been silent for so long is not waited for once more.
        """
        return {
            number: line if line is not None and line.silentSeconds < ANSWER_SECONDS else None
            for number, line in self._lines().items()
        }

    async def _asked(self, name: str) -> WorkersAnswers:
        """
        Ask all workers for something that is not for operators.
        """
        waiting = {
            number: None if line is None else line.ask(name, seconds=ANSWER_SECONDS)
            for number, line in self._heard().items()
        }
        return await WorkersAnswers.of(waiting)

    async def call_status(self) -> Result:
        """What the server says of itself."""
        answers = await self._asked("report")  # each has reported before it answers
        reasons = self.reasons()
        said = {
            "version": deferrals.__version__,
            "uptime_seconds": round(self._clock.seconds() - self._began),
            "ready": not reasons,
            "reasons": reasons,
            "rates": self._reports.rates(),
            **self._reports.status().snapshot(),
            **self._describe(),
        }
        return answers.whole(said)

    async def call_reload(self) -> Result:
        """Read the configuration again."""
        return [*await self._reload()]

    def reasons(self) -> list[str]:
        """
        Why no mail can be taken.
        """
        return self._reports.reasons(self._takers())

    async def figures(self) -> QueueFigures:
        """
        What is in the queues, for monitoring.  What a worker has in its queue is still
        there when it does not answer, or has died: it counts as it was.
        """
        answers = await self._asked("figures")
        if self._isOneQueue and answers.found:  # each has said the same
            self._figures = dict([*answers.found.items()][:1])
        else:
            self._figures |= answers.found
        recipients: dict[tuple[str, str], int] = {}
        oldest: dict[str, float] = {}
        missing = set(answers.missing)
        for found, ages, away in map(asList, self._figures.values()):
            for use, status, count in map(asList, asList(found)):
                key = str(use), str(status)
                recipients[key] = recipients.get(key, 0) + asInteger(count)
            for name, seconds in asObject(ages).items():
                oldest[name] = max(oldest.get(name, 0.0), asNumber(seconds))
            missing |= set(map(asInteger, asList(away)))
        return QueueFigures(recipients, oldest, sorted(missing))


def figuresJSON(figures: QueueFigures) -> JSON:
    """
    A worker's, for L{WorkersOperator.figures}.
    """
    recipients: list[JSON] = [[*key, count] for key, count in figures.recipients.items()]
    return [recipients, {**figures.oldest}, [*figures.missing]]
