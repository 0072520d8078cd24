"""
What all commands write alike.
"""

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from deferrals.operator.output import complain


class ComplainTests(SynchronousTestCase):
    """
    L{complain}.
    """

    def test_line(self) -> None:
        """One line on standard error, which says whose it is."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            complain("no server runs")
        self.assertEqual(said.getvalue(), "deferrals: no server runs\n")
