"""
What pages ask of the server.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.template import flattenString

from deferrals.web.asking import ServerSaid, text


class SaidTests(SynchronousTestCase):
    """
    L{ServerSaid}.
    """

    def test_remarks(self) -> None:
        """Whose answer is missing is said."""
        self.assertEqual(ServerSaid(1).remarks(), [])
        said = ServerSaid(1, {2: "does not answer"}).remarks()
        flat = self.successResultOf(flattenString(None, said)).decode()
        self.assertIn("Worker 2 does not answer", flat)

    def test_text(self) -> None:
        """What is not there is empty."""
        self.assertEqual([text({"a": 1, "b": None}, one) for one in "abc"], ["1", "", ""])
