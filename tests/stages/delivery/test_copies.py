"""
One copy for each recipient, each with an outcome of its own.
"""

from __future__ import annotations

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Delivered, Outcome, Retry
from deferrals.stages.delivery.copies import writeEach
from deferrals.testing import makeAddressees


class CopiesTests(SynchronousTestCase):
    """
    L{writeEach}.
    """

    def test_each(self) -> None:
        """Where writing raises, that recipient is to be tried again, and no other."""
        good, bad = makeAddressees("good@x.example", "bad@x.example")

        def write(addressee: Addressee) -> Outcome:
            if addressee is bad:
                raise OSError("the disk")
            return Delivered()

        outcomes = self.successResultOf(writeEach(maybeDeferred, write, [good, bad]))
        self.assertEqual(outcomes, {good: Delivered(), bad: Retry(R451_LOCAL_ERROR)})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
