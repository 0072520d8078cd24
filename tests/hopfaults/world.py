"""
A queue, its deliveries and one next hop, without sockets and with a clock of their
own, until no recipient is left.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage, Work
from deferrals.model.schedule import Schedule, parseSteps
from deferrals.model.settings import Seconds
from deferrals.relay.attempts import Deliveries
from deferrals.relay.scheduler import Scheduler
from deferrals.smtp.client.pool import NextHops
from deferrals.spool.memory import MemorySpool
from deferrals.stages import web
from deferrals.stages.delivery.http import HTTPDelivery, HTTPDeliverySettings
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.stages.delivery.mx import MXDelivery, MXSettings
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.stages.webconnection import CountedEndpoint
from deferrals.testing import FakeServices, makeAddressees, makeEnvelope, makeMessage
from tests.hopfaults.account import Account
from tests.hopfaults.faults import Fault, Program
from tests.hopfaults.http import WebService
from tests.hopfaults.smtp import Mailserver
from tests.hopfaults.wire import FLOOD_OCTETS, connected
from tests.resolver import Resolver

BODY = b"Subject: x\r\n\r\n.hello\r\n"
LARGE_BODY = BODY + b"more and more\r\n" * 15_000

#: So many times the clock goes on at most.
TURNS = 20_000

#: More than any back-off, in seconds.
WAIT_SECONDS = 2000.0

#: The peer has two addresses: they are two servers to a client.
RECORDS: dict[tuple[str, str], list[Any]] = {
    ("x.example", "MX"): [(10, "one.example"), (20, "two.example")],
    ("one.example", "A"): ["192.0.2.1"],
    ("two.example", "A"): ["192.0.2.2"],
}

SCHEDULE = Schedule(parseSteps("60s"), Seconds(10_000_000.0), Seconds(0.0))


@attrs.frozen(kw_only=True)
class Case:
    """
    @ivar use: the delivery.
    @ivar keywords: what a mail server offers.
    @ivar rcpt: replies to RCPT TO, or whole answers of a web service, by address.
    @ivar own: replies behind the data, by address.
    @ivar faults: what goes wrong.
    @ivar recipients: of each message.
    @ivar connections: to the peer at once: with one, messages go over it one after
        the other.
    @ivar isLarge: whether messages are large.
    @ivar stops: after so many turns of the clock the server stops, and starts again.
    @ivar octets: the peer says so many at a time; 0 for all.
    @ivar isApart: whether a message comes only when the one before is done.
    """

    use: str
    keywords: Sequence[str] = ()
    rcpt: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    own: Mapping[str, Sequence[str]] = attrs.field(factory=dict)
    faults: Sequence[Fault] = ()
    recipients: int = 3
    messages: int = 1
    connections: int = 5
    isLarge: bool = False
    stops: int | None = None
    octets: int = 0
    isApart: bool = False


class _NoNotifier:
    """
    Tells nothing: the messages have no sender.
    """

    def tell(self, number: int) -> Deferred[list[Work]]:
        return succeed([])

    sweep = tell

    def stop(self) -> Deferred[None]:
        return succeed(None)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, world: World) -> None:
        self._world = world

    def connect(self, factory: Factory) -> Deferred[Any]:
        world = self._world
        return succeed(connected(world.clock, factory, world.peer.session()))


class World:
    """
    Some messages to one peer.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        program = Program(case.faults, case.octets)
        self.people = [
            [f"{name}{suffix}@x.example" for name in "abcd"[: case.recipients]]
            for suffix in ("", "2", "3")[: case.messages]
        ]
        self.peer: Any
        if case.use == "http":
            self.peer = WebService(self.clock, program, _lists(case.rcpt))
        else:
            self.peer = Mailserver(
                self.clock,
                program,
                case.keywords,
                case.use == "lmtp",
                _lists(case.rcpt),
                _lists(case.own),
            )
        self.spool = MemorySpool(self.clock)
        self.problems: list[str] = []

    @property
    def account(self) -> Account:
        """What the peer's words come to."""
        account: Account = self.peer.account
        return account

    def start(self) -> None:
        """
        A server begins, with the queue that there is.
        """
        services = FakeServices(reactor=self.clock)
        endpoint = _Endpoint(self)
        services.connect = lambda name: endpoint  # type: ignore[method-assign]
        self.hops = NextHops(self.clock, "mx.example.net", services.connect, maybeDeferred)
        services.nextHops = self.hops
        stage = self._stage(services)
        self.pool: HTTPConnectionPool | None = getattr(self, "pool", None)
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage=lambda name: stage, schedule=lambda name: SCHEDULE),
            _NoNotifier(),  # type: ignore[arg-type]
            chance=lambda: 0.5,
        )

    def _stage(self, services: FakeServices) -> IDeliveryStage:
        most = self.case.connections
        if self.case.use == "lmtp":
            return LMTPDelivery(LMTPSettings(endpoint="peer", connections=most), services)
        if self.case.use == "smtp":
            return SMTPDelivery(
                SMTPSettings(endpoint="peer", tls="none", connections=most), services
            )
        if self.case.use == "mx":
            resolver: Any = Resolver(RECORDS)
            services.resolver = lambda servers=(): resolver  # type: ignore[method-assign]
            return MXDelivery(MXSettings(tls="none", ipv6=False, connections=most), services)
        made, web.makeAgent = web.makeAgent, self._agent  # type: ignore[assignment]
        try:
            return HTTPDelivery(HTTPDeliverySettings("http://192.0.2.1/", Seconds(60.0)), services)
        finally:
            web.makeAgent = made

    def _agent(self, reactor: Any, connections: int) -> Any:
        world = self

        class Endpoints:
            def endpointForURI(self, uri: Any) -> Any:
                return CountedEndpoint(world.clock, _Endpoint(world))

        self.pool = HTTPConnectionPool(self.clock)  # type: ignore[arg-type]
        return Agent.usingEndpointFactory(self.clock, Endpoints(), self.pool)  # type: ignore[arg-type]

    def run(self) -> list[str]:
        """
        @return: all that is wrong.
        """
        with capturedLogs() as logged, warnings.catch_warnings():
            # The library's errors are made of octets.
            warnings.simplefilter("ignore", BytesWarning)
            self.start()
            self._unsent = list(self.people)
            self._send()
            while self._unsent and not self.case.isApart:
                self._send()
            self._untilDone()
        return [*self.problems, *self._logProblems(logged), *self._judged(logged)]

    def _send(self) -> None:
        """
        One more message.
        """
        message = makeMessage(LARGE_BODY if self.case.isLarge else BODY)
        people = self._unsent.pop(0)
        d = self.spool.stage(makeEnvelope(""), message, makeAddressees(*people))
        d.addCallback(self.scheduler.release)

    def _untilDone(self) -> None:
        stops = self.case.stops
        for turn in itertools.count():
            if stops is not None and turn >= stops:
                stops = None
                self._restart()
            if turn > TURNS:
                self.problems.append("it does not end")
                return
            if not self._left() and not self.scheduler._attempts:
                if not self._unsent:
                    break
                self._send()
                continue
            calls = self.clock.getDelayedCalls()
            if self.scheduler._attempts:
                if not calls:
                    self.problems.append("it waits for nothing")
                    return
                next_ = min(call.getTime() for call in calls)
                self.clock.advance(max(0.0, next_ - self.clock.seconds()))
            else:
                self.clock.advance(WAIT_SECONDS)
                self.scheduler.again()
                self.clock.advance(1)
        self._quiet()

    def _left(self) -> int:
        found: list[Any] = []
        self.spool.waiting().addCallback(found.append)
        return int(found[0][1])

    def _restart(self) -> None:
        """
        The server stops, its connections are closed, and it starts again.
        """
        stopped: list[Any] = []
        self.scheduler.stop().addBoth(stopped.append)
        for _ in range(TURNS):
            if stopped:
                break
            next_ = min(call.getTime() for call in self.clock.getDelayedCalls())
            self.clock.advance(max(0.0, next_ - self.clock.seconds()))
        self.hops.close()
        self.spool.open()
        self.start()
        self.scheduler.again()

    def _quiet(self) -> None:
        """
        After a while there are no connections, and nothing waits.
        """
        for _ in range(5):
            self.clock.advance(700)
        if self.case.use != "http" and self.hops.describe()["connections"]:
            self.problems.append(f"connections are left: {self.hops.describe()}")
        for session in self.peer.sessions:
            if session.flooded > FLOOD_OCTETS:
                self.problems.append("a flood is read for ever")
            if not session.isClosed and self.case.use != "http":
                self.problems.append("a connection is left")
        if self.case.use != "http" and self.clock.getDelayedCalls():
            self.problems.append(f"there are timers left: {self.clock.getDelayedCalls()}")

    def _logProblems(self, logged: Sequence[LogEvent]) -> list[str]:
        return [
            f"the log has: {formatEvent(one)} {one['log_failure']}"
            for one in logged
            if "log_failure" in one
        ]

    def _judged(self, logged: Sequence[LogEvent]) -> list[str]:
        problems = list(self.account.wrong)
        for address in itertools.chain(*self.people):
            ends = [
                (one["outcome"], int(one["reply"][:3] or 0))
                for one in logged
                if one.get("event") == "delivery"
                and one["recipient"] == address
                and one["outcome"] != "retry"
            ]
            problems += self.account.problems(address, ends)
        return problems


def _lists(replies: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {address: list(found) for address, found in replies.items()}
