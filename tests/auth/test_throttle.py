"""
Guessing passwords, and what honest users notice of it.
"""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.auth.authenticator import Authenticator
from deferrals.auth.throttle import NEW_ATTEMPTS, WAITING, Throttle, accountKey
from deferrals.model.limits import Limits
from deferrals.server.limits import SharedLimits
from deferrals.spool.memory import MemorySpool
from tests.harness import GREETING, Bench, Transport
from tests.rigs import examples

HOME, OFFICE, HOTEL = "192.0.2.1", "198.51.100.7", "203.0.113.9"


class Slow(InMemoryUsernamePasswordDatabaseDontUse):
    """
    Counts what it is asked; may wait until it is told to go on.
    """

    def __init__(self, **users: bytes) -> None:
        super().__init__(**users)
        self.asked: list[bytes] = []
        self.held: list[Deferred[None]] | None = None

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials.password)
        if self.held is None:
            return super().requestAvatarId(credentials)
        d: Deferred[None] = Deferred()
        self.held.append(d)
        return d.addCallback(lambda _: super(Slow, self).requestAvatarId(credentials))


class ThrottleCase(SynchronousTestCase):
    """
    With a server's checks, in front of a checker that counts.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.spool = MemorySpool(self.clock)
        self.checker = Slow(alice=b"right", bob=b"right")
        self.restart()

    def restart(self, limits: Limits = Limits()) -> None:
        self.limits = SharedLimits(self.clock)
        self.limits.keepIn(self.spool)
        self.successResultOf(self.limits.load())
        self.throttle = Throttle(self.limits, limits, self.clock)
        self.authenticator = Authenticator([self.checker], self.throttle)

    def attempt(self, address: str, password: str, user: str = "alice") -> Deferred[str]:
        credentials = UsernamePassword(user.encode(), password.encode())
        d = self.authenticator.login(credentials, address)
        d.addErrback(lambda failure: failure.type.__name__)
        return d

    def said(self, address: str, password: str, user: str = "alice") -> str:
        return self.successResultOf(self.attempt(address, password, user))

    def guess(self, address: str, count: int, user: str = "alice") -> int:
        """
        Guess so often.

        @return: how many of the guesses were looked at.
        """
        before = len(self.checker.asked)
        for number in range(count):
            self.attempt(address, f"guess {before} {number}", user)
        return len(self.checker.asked) - before


class GuessingTests(ThrottleCase):
    """
    L{Throttle}.
    """

    def test_oneAddress(self) -> None:
        """After some wrong passwords none is looked at any longer, the right one neither."""
        self.assertEqual(self.guess(HOTEL, 151), 10)
        self.assertEqual(self.said(HOTEL, "right"), "TooManyFailures")
        self.clock.advance(3700)
        self.assertEqual(self.said(HOTEL, "right"), "alice")

    def test_atOnce(self) -> None:
        """Guesses that come at the same time are not looked at all at once."""
        self.checker.held = []
        waiting = [self.attempt(HOTEL, f"guess {number}") for number in range(150)]
        self.assertEqual(len(self.checker.asked), 10)
        while self.checker.held:
            self.checker.held.pop().callback(None)
        results = [self.successResultOf(d) for d in waiting]
        self.assertEqual(results.count("UnauthorizedLogin"), 10)
        self.assertEqual(results.count("TooManyFailures"), 140)

    def test_goesAway(self) -> None:
        """A client that goes before the answer tries no more often than one that waits."""
        self.checker.held = []
        for number in range(300):
            self.attempt(HOTEL, f"guess {number}").cancel()
        self.assertLessEqual(len(self.checker.asked), 60)
        self.checker.held = None
        self.assertEqual(self.said(HOTEL, "right"), "TooManyFailures")
        self.assertEqual(self.said(HOME, "right"), "alice")

    def test_elsewhere(self) -> None:
        """The honest user is served at once elsewhere, whether known there or new."""
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.guess(HOTEL, 100)
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.assertEqual(self.said(OFFICE, "right"), "alice")

    def test_manyNetworks(self) -> None:
        """From a thousand networks, each gets two guesses an hour; the user, all of them."""
        self.assertEqual(self.said(HOME, "right"), "alice")
        looked = sum(self.guess(f"10.{one // 250}.{one % 250}.1", 20) for one in range(1000))
        self.assertLessEqual(looked, 50 + NEW_ATTEMPTS * 1000)
        for number in range(5):
            self.assertEqual(self.said(HOME, f"mistyped {number}"), "UnauthorizedLogin")
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.assertEqual(self.said(OFFICE, "mistyped"), "UnauthorizedLogin")
        self.assertEqual(self.said(OFFICE, "right"), "alice")

    def test_manyAddresses(self) -> None:
        """A whole network gets fifty guesses, for whichever accounts; not IPv6's /64 each."""
        looked = sum(self.guess(f"203.0.113.{one}", 20, f"user{one}") for one in range(250))
        self.assertEqual(looked, 50)
        looked = sum(self.guess(f"2001:db8:5:{one:x}::1", 20, f"user{one}") for one in range(250))
        self.assertEqual(looked, 50)

    def test_known(self) -> None:
        """A user that has logged in from a network is let through, however many guess there."""
        self.assertEqual(self.said(HOME, "right"), "alice")
        for number in range(60):
            self.guess("192.0.2.77", 1, f"user{number}")
        self.assertEqual(self.said("192.0.2.77", "right", "bob"), "TooManyFailures")
        self.assertEqual(self.said(HOME, "right"), "alice")

    def test_spellings(self) -> None:
        """One account is one account, however its name is spelt."""
        spellings = ("alice", "ALICE", "Alice", "al\u00adice", "\uff41lice", " alice")
        for spelling in spellings:
            self.assertEqual(accountKey(spelling.encode()), "alice")
        self.assertEqual(sum(self.guess(HOTEL, 5, one) for one in spellings), 10)
        self.assertEqual(len(accountKey(b"x" * 5000)), 64)
        self.assertEqual(accountKey(b"\xff\x00"), accountKey(b"\xff\x00"))

    def test_unknownUser(self) -> None:
        """An account that is not there is told exactly what one that is there is told."""
        told = []
        for user in ("alice", "nobody"):
            self.restart()
            told.append([self.said(HOTEL, f"guess {number}", user) for number in range(30)])
            self.spool = MemorySpool(self.clock)
        self.assertEqual(told[0], told[1])

    def test_restart(self) -> None:
        """A restart gives nothing back, and forgets no address."""
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.assertEqual(self.guess(HOTEL, 20), 10)
        self.limits.close()
        self.restart()
        self.assertEqual(self.guess(HOTEL, 20), 0)
        self.assertEqual(self.said(HOTEL, "right"), "TooManyFailures")
        for number in range(60):
            self.guess("192.0.2.77", 1, f"user{number}")
        self.assertEqual(self.said(HOME, "right"), "alice")

    def test_oldPassword(self) -> None:
        """A telephone with an old password does not lock out what is beside it."""
        for _ in range(200):
            self.assertEqual(self.said(HOME, "old"), "UnauthorizedLogin")
            self.clock.advance(1)
        self.assertLessEqual(len(self.checker.asked), 6)  # once at first, then once a minute
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.checker.addUser(b"alice", b"old")
        self.clock.advance(120)
        self.assertEqual(self.said(HOME, "old"), "alice")

    def test_rightOnes(self) -> None:
        """Right passwords cost nothing, however many come at once from one network."""
        self.checker.held = []
        users = [f"user{number}" for number in range(WAITING)]
        for user in users:
            self.checker.addUser(user.encode(), b"right")
        waiting = [self.attempt("192.0.2.200", "right", user) for user in users]
        while self.checker.held:
            self.checker.held.pop(0).callback(None)
        self.assertEqual([self.successResultOf(d) for d in waiting], users)

    def test_tooManyWait(self) -> None:
        """There is an end to how many of one network wait; one that gives up makes room."""
        self.checker.held = []
        waiting = [self.attempt(HOTEL, f"guess {number}") for number in range(10 + WAITING)]
        self.assertEqual(self.said(HOTEL, "right"), "TooManyFailures")
        waiting[-1].cancel()
        self.assertNoResult(self.attempt(HOTEL, "another"))

    def test_ours(self) -> None:
        """What could not be checked, or not in time, is no wrong password."""
        self.patch(self.checker, "requestAvatarId", lambda _: 1 / 0)
        for _ in range(50):
            self.assertEqual(self.said(HOME, "right"), "ZeroDivisionError")
        self.patch(self.checker, "requestAvatarId", lambda _: Deferred())
        for _ in range(50):
            d = self.attempt(HOME, "right")
            self.clock.advance(30)
            self.assertEqual(self.successResultOf(d), "TimeoutError")
        self.patch(self.checker, "requestAvatarId", Slow(alice=b"right").requestAvatarId)
        self.assertEqual(self.said(HOME, "right"), "alice")
        self.assertEqual(self.throttle._running, {})

    @settings(max_examples=examples(60), deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 40), st.integers(1, 15), st.sampled_from([0, 1, 300, 2000])),
            max_size=60,
        )
    )
    def test_always(self, attack: list[tuple[int, int, int]]) -> None:
        """
        Whatever is guessed, from wherever: no address gets more than ten guesses
        an hour, and the user is served at home, and from a network that is new.
        """
        self.setUp()
        self.assertEqual(self.said(HOME, "right"), "alice")
        looked: dict[str, list[float]] = {}
        for place, count, seconds in attack:
            address = f"10.0.{place}.1"
            now = self.clock.seconds()
            looked.setdefault(address, []).extend([now] * self.guess(address, count))
            recent = [one for one in looked[address] if one > now - 3600]
            self.assertLessEqual(len(recent), 10)
            self.assertEqual(self.said(HOME, "right"), "alice")
            self.clock.advance(seconds)
        self.assertEqual(self.said(OFFICE, "right"), "alice")


class WireTests(ThrottleCase):
    """
    The same over connections, and over listeners.
    """

    def say(self, address: str, password: str, **settings: Any) -> list[str]:
        """
        One connection, from the greeting to the answer or to a second later.
        """
        backend = {"authenticator": self.authenticator}
        bench = Bench(
            {}, backend, Transport(address), auth="offered", auth_without_tls=True, **settings
        )
        bench.say(*GREETING)
        login = base64.b64encode(b"\0alice\0" + password.encode()).decode()
        said = bench.say(f"AUTH PLAIN {login}")
        bench.clock.advance(1)
        self.clock.advance(1)
        bench.lose()
        return said

    def test_reconnecting(self) -> None:
        """151 guesses, each on a connection of its own that hangs up after a second (S8)."""
        said = []
        for number in range(151):
            protocol = ("smtp", "submission")[number % 2]
            said += self.say(HOTEL, f"guess {number}", protocol=protocol)
        self.assertEqual(len(self.checker.asked), 10)
        self.assertEqual(said, ["454 4.7.0 too many wrong passwords, try again later"] * 141)
        self.assertEqual(self.say(HOTEL, "right")[0][:9], "454 4.7.0")
        self.assertEqual(self.say(HOME, "right"), ["235 2.7.0 authenticated"])

    def test_oneConnection(self) -> None:
        """A client that is told so three times on one connection is disconnected."""
        self.guess(HOTEL, 10)
        backend = {"authenticator": self.authenticator}
        bench = Bench({}, backend, Transport(HOTEL), auth="offered", auth_without_tls=True)
        bench.say(*GREETING)
        login = base64.b64encode(b"\0alice\0right").decode()
        said = [line[:9] for _ in range(3) for line in bench.say(f"AUTH PLAIN {login}")]
        self.assertEqual(said, ["454 4.7.0", "454 4.7.0", "454 4.7.0", "421 4.7.0"])
        self.assertTrue(bench.closed)
        self.assertEqual(bench.status.counted("authentications", "not tried"), 3)
