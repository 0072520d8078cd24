"""
Connections to a filter.
"""

from __future__ import annotations

from typing import Any

from kilter.protocol.messages import Body
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.stages.milter.dialogue import Tell
from deferrals.stages.milter.link import IDLE_SECONDS, MAX_IDLE, FilterLink, FilterLinks
from deferrals.stages.milter.wire import packed
from tests.milters import ScriptedFilter


class LinkTests(SynchronousTestCase):
    """
    L{FilterLink} and L{FilterLinks}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.filter = ScriptedFilter(self.clock)
        self.links = FilterLinks(self.filter, self.clock, ("headers",))

    def use(self, session: str, count: int = 1, isAnswered: bool = True) -> Deferred[Any]:
        """
        @param count: of steps.
        """

        def steps() -> Any:
            for _ in range(count):
                yield Tell(packed(Body(b"x" * 1000), 1000), isAnswered)
            return "done"

        def talk(link: FilterLink) -> Deferred[Any]:
            link.session = session
            return Deferred.fromCoroutine(link.run(steps()))

        found = Deferred.fromCoroutine(self.links.use(session, 10.0, talk))
        self.filter.run()
        return found

    def test_kept(self) -> None:
        """For the same session, and not for ever; not more than so many."""
        for session in ("a", "a", "b", "a"):
            self.assertEqual(self.successResultOf(self.use(session)), "done")
        self.assertEqual(self.links.made, 2)
        self.clock.advance(IDLE_SECONDS)
        self.filter.run()
        self.assertTrue(all(one.transport.isLost for one in self.filter.sessions))
        self.assertEqual(self.filter.letters, ["OBBBQ", "OBQ"])
        for number in range(MAX_IDLE + 5):
            self.successResultOf(self.use(str(number)))
        self.assertEqual(sum(not one.transport.isLost for one in self.filter.sessions), MAX_IDLE)

    def test_spoken(self) -> None:
        """One that speaks while it is asked nothing is not used again."""
        self.successResultOf(self.use("a"))
        self.filter.sessions[0].say(b"a")
        self.assertTrue(self.filter.sessions[0].transport.isLost)
        self.successResultOf(self.use("a"))
        self.assertEqual(self.links.made, 2)

    def test_outOfTurn(self) -> None:
        """What is said without being asked is not taken for the next answer."""
        self.filter.script = {"B": [b"c", b"c"]}
        failure = self.failureResultOf(self.use("a", 3), StageError)
        self.assertIn("out of turn", failure.getErrorMessage())
        self.filter.script = {"B": [b"c"] * 3000}
        failure = self.failureResultOf(self.use("b", 3), StageError)
        self.assertIn("more than it is asked", failure.getErrorMessage())

    def test_behind(self) -> None:
        """A filter that does not read is sent no more, and has its time."""
        self.successResultOf(self.use("a"))
        self.filter.script = {"B": []}
        session = self.filter.sessions[0]
        session.transport.producer.pauseProducing()
        found = self.use("a", 3, False)
        self.assertNoResult(found)
        self.assertEqual(session.letters, "OBB")
        session.transport.producer.resumeProducing()
        self.filter.run()
        self.assertEqual(self.successResultOf(found), "done")
        session.transport.producer.pauseProducing()
        found = self.use("a", 3, False)
        self.clock.advance(10)
        self.failureResultOf(found)
        session.transport.producer.stopProducing()

    def test_connecting(self) -> None:
        """A connection that does not come about has its time, too."""
        self.patch(self.filter, "connect", lambda factory: Deferred())
        found = self.use("a")
        self.clock.advance(10)
        self.failureResultOf(found)

    def test_hangsUp(self) -> None:
        """Where even everything is too little, that is what is said."""
        self.filter.script = {"O": b""}
        failure = self.failureResultOf(self.use("a"), StageError)
        self.assertIn("while it was negotiated", failure.getErrorMessage())
        self.assertEqual(self.clock.getDelayedCalls(), [])
