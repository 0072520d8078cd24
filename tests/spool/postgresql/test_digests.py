"""
Tests for L{deferrals.spool.postgresql.digests}; those with a real database are in
L{tests.integration.test_cluster_refusals}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.postgresql.digests import AWAY_SECONDS, LONGEST_SECONDS, DigestTaken

ME, OTHER = b"me", b"other"


class DigestTakenTests(SynchronousTestCase):
    """
    L{DigestTaken}: who may tell a recipient.
    """

    def test_free(self) -> None:
        """What nobody has taken, and what was one's own before a restart, however long ago."""
        self.assertTrue(DigestTaken().isFree(ME))
        self.assertTrue(DigestTaken(taker=ME, seconds=0.0, isHeard=True).isFree(ME))

    def test_others(self) -> None:
        """Another's stays its own as long as it lives, for a day; and otherwise for a while."""
        for isHeard, span in ((False, AWAY_SECONDS), (True, LONGEST_SECONDS)):
            for seconds, isFree in ((0.0, False), (span, False), (span + 1, True)):
                found = DigestTaken(taker=OTHER, seconds=seconds, isHeard=isHeard)
                self.assertEqual(found.isFree(ME), isFree, (isHeard, seconds))

    def test_known(self) -> None:
        """What its taker has noted counts as what is said."""
        self.assertEqual(DigestTaken(told=1.0, noted=2.0).known, 2.0)
        self.assertEqual(DigestTaken(told=2.0, noted=1.0).known, 2.0)
