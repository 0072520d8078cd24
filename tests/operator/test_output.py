"""
What all commands write alike.
"""

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from deferrals.operator.output import complain, say, sayJSON


class ComplainTests(SynchronousTestCase):
    """
    L{complain}.
    """

    def test_line(self) -> None:
        """One line on standard error, which says whose it is."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            complain("no server runs")
        self.assertEqual(said.getvalue(), "deferrals: no server runs\n")

    def test_clean(self) -> None:
        """What comes from outside does not act on the terminal."""
        with contextlib.redirect_stdout(io.StringIO()) as said:
            say("a\x9b2J\nb\u202e\ud800")
            sayJSON({"x": "\x7f\x9b\u202e"})
        self.assertEqual(
            said.getvalue(),
            'a\\x{9B}2J b\\x{202E}\\x{D800}\n{"x": "\\u007f\\u009b\\u202e"}\n',
        )
