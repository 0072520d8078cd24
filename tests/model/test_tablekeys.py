"""
By what a row of a table is found.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.testing import tableKeys


class TableKeysTests(SynchronousTestCase):
    """
    L{TableKeys<deferrals.model.tablekeys.TableKeys>}.
    """

    def inTurn(self, address: str, subaddress: str = "") -> list[str]:
        return [one.address for one in tableKeys(address, subaddress).inTurn()]

    def test_order(self) -> None:
        """The address, its user, and its domain."""
        wide = "*@example.net"
        named = "anna+lists@example.net"
        self.assertEqual(self.inTurn("Anna+Lists@Example.NET"), [named, wide])
        self.assertEqual(self.inTurn(named, "+"), [named, "anna@example.net", wide])
        self.assertEqual(self.inTurn(named, "-"), [named, wide])
        self.assertEqual(self.inTurn("+x@example.net", "+"), ["+x@example.net", wide])

    def test_named(self) -> None:
        """What queries and URLs may say."""
        keys = tableKeys("Anna+Lists@Example.NET")
        self.assertEqual(
            keys.named,
            {
                "address": "anna+lists@example.net",
                "local": "anna+lists",
                "domain": "example.net",
                "user": "anna",
            },
        )
