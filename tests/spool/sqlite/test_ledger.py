"""
The queue in the embedded database: what is found, loaded and saved.
"""

from __future__ import annotations

from tests.databases import DatabaseCase


class WaitForTests(DatabaseCase):
    """
    L{SqliteLedger.waitFor}.
    """

    def test_first(self) -> None:
        """The first recipient that is due decides, but for a destination that is left alone."""
        for due, ready in ((50.0, 50.0), (60.0, 50.0), (40.0, 40.0)):
            self.waitFor("mx a", due)
            self.assertEqual(self.all("SELECT ready FROM destinations"), [(ready,)])
        self.db.execute("UPDATE destinations SET gate = 45")
        self.waitFor("mx a", 1.0)
        self.assertEqual(self.all("SELECT ready FROM destinations"), [(45.0,)])
