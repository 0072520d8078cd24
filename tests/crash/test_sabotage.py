"""
Faults that are put into a server.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.crash import sabotage


class SabotageTests(SynchronousTestCase):
    """
    L{sabotage.SABOTAGES}.
    """

    def test_there(self) -> None:
        """What each one puts itself around is there: otherwise no server would start with it."""
        patched: list[Any] = []

        def patch(owner: Any, name: str, around: Any) -> None:
            self.assertTrue(callable(getattr(owner, name, None)), f"{owner}: no {name}")
            patched.append(around)

        self.patch(sabotage, "patch", patch)
        for put in sabotage.SABOTAGES.values():
            before = len(patched)
            put()
            self.assertGreater(len(patched), before, put)
