"""
C{/metrics}: what L{Status<deferrals.model.status.Status>} has counted, in the words
of Prometheus.

Nothing here is touched when something happens: families are made when they are
asked for, from the numbers that C{deferrals status} shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import SharedResult, TimeoutError, errorText, withDeadline
from deferrals.logger import Logger
from deferrals.model.json import JSON, asNumber
from deferrals.model.status import BUCKETS, Histogram, Kind, Status

_log = Logger(namespace="deferrals.web")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: How long an answer stands, in seconds; and what was counted in the queue.
ANSWER_SECONDS = 1.0
QUEUE_SECONDS = 15.0

#: How long an answer waits for what is counted in the queue, in seconds; then it has
#: what was counted before.
WAIT_SECONDS = 2.0

#: The states of a service.
_STATES = {"working": 0, "probing": 1, "resting": 2}


@attrs.frozen
class QueueFigures:
    """
    @ivar recipients: how many there are, by class and status.
    @ivar oldest: the age of the oldest, in seconds, by class.
    @ivar missing: the workers that have not answered: what they had is here as they said
        it last.
    """

    recipients: Mapping[tuple[str, str], int] = attrs.field(factory=dict)
    oldest: Mapping[str, float] = attrs.field(factory=dict)
    missing: Collection[int] = ()


@attrs.frozen(kw_only=True)
class Sources:
    """
    Where the numbers come from.

    @ivar status: what was counted.
    @ivar build: C{version}, C{python} and C{twisted}.
    @ivar sessions: how many are open now, by listener.
    @ivar backedOff: how many destinations are left alone.
    @ivar queue: counts what is in the queue.
    @ivar workers: of a server of several processes, how each is; C{up}: it takes mail.
    """

    status: Callable[[], Status]
    build: Mapping[str, str]
    sessions: Callable[[], Mapping[str, int]]
    backedOff: Callable[[], int]
    queue: Callable[[], Deferred[QueueFigures]]
    workers: Callable[[], Sequence[Mapping[str, JSON]]] = tuple


@attrs.frozen
class _Count:
    """
    @ivar metric: its name, without C{_total}.
    @ivar counted: its name in the status.
    @ivar words: what its kinds are called here; others are left as they are.
    @ivar always: kinds that are there from the beginning: of what appears with a
        value no rate can be told.
    """

    metric: str
    labels: tuple[str, ...]
    counted: str
    text: str
    words: Mapping[str, str] = attrs.field(factory=dict)
    always: Sequence[str] = ()

    def family(self, status: Status) -> Metric:
        family = CounterMetricFamily(self.metric, self.text, labels=self.labels)
        sums: dict[tuple[str, ...], int] = {(one,): 0 for one in self.always}
        for kind, count in status.kinds(self.counted).items():
            labels = tuple(self.words.get(one, one) for one in _sides(kind))
            sums[labels] = sums.get(labels, 0) + count
        for labels, count in sums.items():
            family.add_metric(labels, count)
        return family


@attrs.frozen
class _Distribution:
    """
    The same, of what was measured.
    """

    metric: str
    labels: tuple[str, ...]
    measured: str
    text: str
    always: Sequence[str] = ()

    def family(self, status: Status) -> Metric:
        family = HistogramMetricFamily(self.metric, self.text, labels=self.labels)
        measured = status.measured(self.measured)
        for name in self.always:
            measured.setdefault(name, Histogram(BUCKETS[self.measured]))
        for kind, found in measured.items():
            labels = _sides(kind) if self.labels else ()
            family.add_metric(labels, _buckets(found), found.total)
        return family


def _sides(kind: Kind) -> tuple[str, ...]:
    return (kind,) if isinstance(kind, str) else kind


def _buckets(found: Histogram) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*found.bounds, float("inf")], found.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
    return buckets


#: What a client or a login can meet: keys of C{[limits]} and C{[submission]}.
LIMITS = (
    *("message_size", "header_size", "recipients", "extension_recipients", "hops", "errors"),
    *("commands", "transactions", "command_line", "connections", "connections_per_address"),
    *("handshake_timeout", "command_timeout", "idle_timeout", "data_timeout", "data_rate"),
    *("auth_failures", "auth_address_failures", "auth_network_failures"),
    *("auth_account_failures", "messages", "octets"),
)

COUNTERS = (
    _Count("deferrals_sessions", ("listener", "outcome"), "sessions", "Sessions that are over"),
    _Count(
        "deferrals_transactions",
        ("rung",),
        "transactions",
        "Transactions, by their end",
        always=(
            *("deferrals", "prdr", "exdata", "lmtp", "single", "unanimous", "mixed"),
            *("aborted", "sender"),
        ),
    ),
    _Count(
        "deferrals_verdicts",
        ("stage", "policy", "code"),
        "verdicts",
        "What recipients were answered",
    ),
    _Count(
        "deferrals_judgements",
        ("use", "outcome"),
        "judgements",
        "What content stages have said, one for each of their cohorts",
    ),
    _Count(
        "deferrals_deadlines_missed",
        ("stage",),
        "late",
        "How often a client was told to come again because something was late",
        always=("envelope", "content", "delivery", "spool", "mixed"),
    ),
    _Count(
        "deferrals_mixed",
        ("what",),
        "mixed",
        "What plain senders met whose recipients differ",
        {
            "recipients sent away": "sent_away",
            "refused for now": "refused_for_now",
            "retry seen": "retry_seen",
            "filed": "filed",
            "notified": "notified",
            "dropped": "dropped",
            "one refusal for all": "one_for_all",
        },
        (
            *("sent_away", "refused_for_now", "retry_seen", "filed", "notified", "dropped"),
            "one_for_all",
        ),
    ),
    _Count(
        "deferrals_deliveries",
        ("class", "outcome"),
        "deliveries",
        "Attempts to deliver, one for each recipient",
    ),
    _Count(
        "deferrals_notices",
        ("kind",),
        "notices",
        "What senders were told, one for each recipient",
        {"expired": "failed", "damaged": "failed", "unfit": "failed"},
        ("failed", "delayed", "delivered", "relayed", "expanded", "untold"),
    ),
    _Count(
        "deferrals_limits_hit",
        ("limit",),
        "limits",
        "How often clients and logins have met a limit",
        always=LIMITS,
    ),
    _Count(
        "deferrals_authentications",
        ("outcome",),
        "authentications",
        "Attempts to log in",
        {"failed": "refused", "not tried": "throttled", "not possible": "failed"},
        ("accepted", "refused", "throttled", "failed"),
    ),
    _Count(
        "deferrals_admissions",
        ("how",),
        "admissions",
        "How often a recipient has let in a sender",
        always=("link", "command"),
    ),
)

HISTOGRAMS = (
    _Distribution(
        "deferrals_reply_seconds",
        ("reply",),
        "replies",
        "From RCPT TO, or from the data's end, to the reply",
        ("rcpt", "recipient", "final"),
    ),
    _Distribution(
        "deferrals_mixed_last_recipient_seconds",
        (),
        "mixed",
        "Until the last recipient of a message had it that came in several parts",
        ("last recipient",),
    ),
    _Distribution(
        "deferrals_commit_seconds",
        (),
        "commit seconds",
        "How long it took to make mail durable",
        ("",),
    ),
    _Distribution(
        "deferrals_commit_messages", (), "commit messages", "Of how many messages at once", ("",)
    ),
    _Distribution("deferrals_delivery_seconds", ("class",), "deliveries", "How long attempts took"),
    _Distribution(
        "deferrals_service_seconds", ("service",), "services", "How long services took to answer"
    ),
)


class _Families(Collector):
    """
    @ivar queue: what was counted last.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self.queue = QueueFigures()

    def collect(self) -> Iterator[Metric]:
        """
        See C{Collector}.
        """
        status = self._sources.status()
        yield from (one.family(status) for one in COUNTERS)
        yield from (one.family(status) for one in HISTOGRAMS)
        yield from self._services(status)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        sources, queue = self._sources, self.queue
        build = {tuple(sources.build.values()): 1}
        yield _gauge("deferrals_build_info", "What runs", tuple(sources.build), build.items())
        open_ = {(name,): count for name, count in sources.sessions().items()}
        yield _gauge(
            "deferrals_sessions_open", "Sessions that are open", ("listener",), open_.items()
        )
        yield _gauge(
            "deferrals_queue_recipients",
            "Recipients in the queue",
            ("class", "status"),
            queue.recipients.items(),
        )
        oldest = {(name,): seconds for name, seconds in queue.oldest.items()}
        text = "How long the oldest message has been in the queue"
        yield _gauge("deferrals_queue_oldest_seconds", text, ("class",), oldest.items())
        text = "Destinations that are left alone"
        yield _gauge("deferrals_destinations_backed_off", text, (), [((), sources.backedOff())])
        kept = sources.status().parts().get("refusals")
        number = kept.get("kept", 0) if isinstance(kept, dict) else 0
        yield _gauge("deferrals_refusals_kept", "Refusals that are kept", (), [((), number)])
        yield from _workers(sources.workers(), queue.missing)

    def _services(self, status: Status) -> Iterator[Metric]:
        """
        What is asked of others, and how that goes.
        """
        text = "Requests to services"
        requests = CounterMetricFamily("deferrals_service_requests", text, None, _SERVICE)
        states: dict[tuple[str, ...], int] = {}
        for name, part in status.parts().items():
            state = part.get("state") if isinstance(part, dict) else None
            if state in _STATES:
                states[name,] = _STATES[state]
                for kind, outcome in _OUTCOMES.items():
                    requests.add_metric((name, outcome), status.counted(name, kind))
        yield requests
        text = "0: works, 1: is probed, 2: rests"
        yield _gauge("deferrals_service_state", text, ("service",), states.items())
        up = [*_owners(status.parts().get("owner"))]
        if up:
            text = "Whether a process shares a database with others, and it is there"
            yield _gauge("deferrals_owner_up", text, ("machine", "worker"), up)


def _owners(part: object) -> Iterator[tuple[tuple[str, ...], int]]:
    """
    @param part: what a process says of itself; of several, those of each.
    """
    if isinstance(part, dict) and "machine" in part:
        yield (str(part["machine"]), str(part["worker"])), int(bool(part["up"]))
    elif isinstance(part, dict):
        for one in part.values():
            yield from _owners(one)


def _workers(workers: Sequence[Mapping[str, JSON]], missing: Collection[int]) -> Iterator[Metric]:
    """
    The processes of one server.

    @param missing: those whose figures these are not: none of them counts as up.
    """
    up = {(str(one["worker"]),): int(bool(one["up"])) for one in workers}
    up |= {(str(one),): 0 for one in missing}
    if up:
        text = "Whether a worker takes mail and answers"
        yield _gauge("deferrals_worker_up", text, _WORKER, up.items())
    if workers:
        text = "How often a worker was begun again"
        restarts = CounterMetricFamily("deferrals_worker_restarts", text, None, _WORKER)
        for one in workers:
            restarts.add_metric((str(one["worker"]),), asNumber(one["restarts"]))
        yield restarts


class _Processes(Collector):
    """
    What the system knows of the processes of one server, together.

    @param pids: the numbers of those beside this one.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._seconds: dict[int, float] = {}
        self._ended = 0.0

    def collect(self) -> Iterator[Metric]:
        """
        See C{Collector}.
        """
        own = {one.name: one for one in ProcessCollector(registry=None).collect()}
        seconds: dict[int, float] = {}
        for pid in self._pids():
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                found = {sample.name: sample.value for sample in family.samples}
                seconds[pid] = found.get(_SECONDS, seconds.get(pid, 0.0))
                if family.name in own and family.name not in _OF_ONE:
                    _addTo(own[family.name], found)
        ended = {_SECONDS: self._endedSeconds(seconds)}
        for family in own.values():
            _addTo(family, ended)
        yield from own.values()

    def _endedSeconds(self, seconds: dict[int, float]) -> float:
        """
        @param seconds: the processor time of those that there are.
        @return: that of those that were seen before, and have ended: a counter does not
            go backwards.
        """
        before, self._seconds = self._seconds, seconds
        self._ended += sum(spent for pid, spent in before.items() if seconds.get(pid, 0.0) < spent)
        return self._ended


#: What is no sum: when the first of the processes began, and what each may have.
_OF_ONE = ("process_start_time_seconds", "process_max_fds")


#: A counter.
_SECONDS = "process_cpu_seconds_total"


def _addTo(family: Metric, values: Mapping[str, float]) -> None:
    family.samples = [
        sample._replace(value=sample.value + values.get(sample.name, 0.0))
        for sample in family.samples
    ]


_WORKER = ("worker",)
_SERVICE = ("service", "outcome")
_OUTCOMES = {"answered": "answered", "failed": "failed", "left alone": "left_alone"}


def _gauge(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[Sequence[str], float]],
) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        gauge.add_metric(key, value)
    return gauge


class Metrics:
    """
    The text of C{/metrics}.

    @param clock: the time.
    """

    def __init__(self, sources: Sources, clock: IReactorTime) -> None:
        self._sources = sources
        self._clock = clock
        self._families = _Families(sources)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._families)
        self._registry.register(_Processes(self._pids))
        self._text = b""
        self._until = self._queueUntil = float("-inf")
        self._making: SharedResult[bytes] | None = None
        self._counting: SharedResult[QueueFigures] | None = None

    def get(self) -> Deferred[bytes]:
        """
        @return: a Deferred of the text; of the last one, where that is new enough.
        """
        if self._clock.seconds() < self._until:
            return succeed(self._text)
        making = self._making
        if making is None:
            making = self._making = SharedResult(Deferred.fromCoroutine(self._make()))
            making.wait().addBoth(self._made)  # who has gone does not end it
        return making.wait()

    def _pids(self) -> list[int]:
        pids = [one["pid"] for one in self._sources.workers()]
        return [pid for pid in pids if isinstance(pid, int)]

    def _made(self, _: object) -> None:
        self._making = None

    async def _make(self) -> bytes:
        with contextlib.suppress(TimeoutError):
            await withDeadline(self._clock, WAIT_SECONDS, self._counted)
        self._text = generate_latest(self._registry)
        self._until = self._clock.seconds() + ANSWER_SECONDS
        return self._text

    def _counted(self) -> Deferred[QueueFigures]:
        """
        @return: a Deferred of what is in the queue, counted anew where it is time.
        """
        now, counting = self._clock.seconds(), self._counting
        if counting is None and now < self._queueUntil:
            return succeed(self._families.queue)
        if counting is None:
            self._queueUntil = now + QUEUE_SECONDS
            source = self._sources.queue().addErrback(_notCounted)
            counting = self._counting = SharedResult(source.addCallback(self._keep))
            counting.wait().addBoth(self._countingOver)  # an answer that is late does not end it
        return counting.wait()

    def _keep(self, figures: QueueFigures) -> QueueFigures:
        self._families.queue = figures
        return figures

    def _countingOver(self, _: object) -> None:
        self._counting = None


def _notCounted(failure: Failure) -> QueueFigures:
    _log.error("no figures of the queue: {error}", error=errorText(failure))
    return QueueFigures()
