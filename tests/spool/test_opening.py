"""
Mail that comes while a spool is still being opened.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.opening import SpoolOpening


class SpoolOpeningTests(SynchronousTestCase):
    """
    L{SpoolOpening}.
    """

    def setUp(self) -> None:
        self.opening = SpoolOpening()
        self.staged: list[str] = []

    def wait(self, name: str) -> Deferred[str]:
        def stage() -> Deferred[str]:
            self.staged.append(name)
            return succeed(name)

        return self.opening.wait(stage)

    def test_opened(self) -> None:
        """What has come before goes on in its order, once it is open."""
        waiting = [self.wait("one"), self.wait("two")]
        self.assertEqual((self.staged, self.opening.isOver), ([], False))
        self.opening.end()
        self.assertEqual([self.successResultOf(one) for one in waiting], ["one", "two"])
        self.assertEqual((self.staged, self.opening.isOver), (["one", "two"], True))

    def test_failed(self) -> None:
        """Where it cannot be opened nothing is staged, and each is told why."""
        waiting = [self.wait("one"), self.wait("two")]
        self.opening.end(Failure(SpoolError("no space left")))
        for one in waiting:
            failure = self.failureResultOf(one, SpoolError)
            self.assertEqual(failure.getErrorMessage(), "no space left")
        self.assertEqual((self.staged, self.opening.isOver), ([], True))
