"""
L{tests.crash.explained}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.explained import Copy, Nap, around, isExplained

#: Processes 1 and 4 sleep from 10 s on, and know at 15 and 14 s that others had what they had.
NAP = Nap(10.0, {1: 15.0, 4: 14.0})


class NapTests(SynchronousTestCase):
    """
    L{Nap}.
    """

    def explained(self, *copies: Copy) -> bool:
        return isExplained(sorted(copies), [], [NAP])

    def test_underWay(self) -> None:
        """What the sleeper was delivering, somebody else has had meanwhile, or later."""
        mine = Copy(14.0, 9.0, by=1)
        self.assertTrue(self.explained(Copy(12.0, 11.0, by=2), mine))
        self.assertTrue(self.explained(mine, Copy(16.0, 13.0, by=2)))
        self.assertFalse(self.explained(Copy(9.5, 9.0, by=2), mine))

    def test_tooLate(self) -> None:
        """The sleeper begins nothing of what it had once it can know that it is others'."""
        theirs = Copy(12.0, 11.0, by=2)
        self.assertTrue(self.explained(theirs, Copy(17.0, 15.9, by=1)))
        self.assertFalse(self.explained(theirs, Copy(17.0, 16.1, by=1)))

    def test_putBack(self) -> None:
        """
        What it could not write down since another had it, and has put back, the sleeper may
        have again when it knows, or another process of its machine that knows before.
        """
        self.assertTrue(self.explained(Copy(14.0, 9.0, by=1), Copy(18.0, 17.0, by=1)))
        self.assertTrue(self.explained(Copy(14.0, 9.0, by=1), Copy(14.2, 14.1, by=4)))

    def test_others(self) -> None:
        """Nobody else delivers twice, and the sleeper not what it had before."""
        self.assertFalse(self.explained(Copy(12.0, 11.0, by=2), Copy(13.0, 12.0, by=3)))
        self.assertFalse(self.explained(Copy(9.5, 9.0, by=1), Copy(12.0, 11.0, by=2)))
        self.assertFalse(self.explained(Copy(14.0, 9.0, by=1), Copy(14.5, 14.2, by=1)))
        self.assertFalse(self.explained(Copy(13.0, 9.0, by=1), Copy(13.5, 13.2, by=4)))

    def test_unknown(self) -> None:
        """Where it is not known who has made copies, they are of the time of the nap."""
        self.assertTrue(self.explained(Copy(11.0, 11.0), Copy(17.0, 17.0)))
        self.assertFalse(self.explained(Copy(9.0, 9.0), Copy(11.0, 11.0)))
        self.assertFalse(self.explained(Copy(11.0, 11.0), Copy(19.0, 19.0)))

    def test_around(self) -> None:
        """What happened around copies, for people."""
        copies = [Copy(12.0, 11.0, by=2), Copy(14.0, 9.0, by=1)]
        self.assertEqual(
            around(copies, [1.0, 13.0, 16.0], [NAP]),
            [
                "nap -2.00",
                "copy by 2, begun -1.00: +0.00",
                "kill +1.00",
                "4 knew +2.00",
                "copy by 1, begun -3.00: +2.00",
            ],
        )
