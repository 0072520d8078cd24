"""
What looks like a pattern of addresses and is none.
"""

from __future__ import annotations

import json
import os

from deferrals.config.crosscheck import remarks
from deferrals.config.patterns import MAX_NAMED, patternRemarks, rowRemarks
from tests.configs import LISTEN, ConfigCase

RULE = "[[recipients]]\nmatch = %s\npolicy = 'open'\ndeliver = { use = 'discard' }\n"


class LiteralPatternTests(ConfigCase):
    """
    L{patternRemarks} and L{rowRemarks}.
    """

    def test_rules(self) -> None:
        """A rule whose * is no pattern is named; one that is quoted is meant."""
        for match, isNamed in (
            ("scored*@example.net", True),
            ("*scored@example.net", True),
            ("**@example.net", True),
            ("anna@example.net", False),
            ("*@example.net", False),
            ("*@*.example.net", False),
            ("*", False),
            ('"scored*"@example.net', False),
        ):
            config = self.load(f"{LISTEN}[policies.open]\n{RULE % json.dumps(match)}")
            found = list(patternRemarks(config))
            self.assertEqual([key for key, _ in found], ["recipients[0].match"] * isNamed, match)
            self.assertEqual([one for one in remarks(config) if one in found], found)
            if isNamed:
                self.assertIn(f"the * in {match} stands for itself", found[0][1])

    def test_senders(self) -> None:
        """Patterns of senders, likewise."""
        for senders, count in (
            ('["news*@example.net", "*@example.org", "{user}*@example.net"]', 2),
            ('["*@example.org", "{user}"]', 0),
            ('"any"', 0),
            ('"own"', 0),
        ):
            config = self.load(f"{LISTEN}[submission]\nsenders = {senders}\n")
            found = list(patternRemarks(config))
            self.assertEqual([key for key, _ in found], ["submission.senders"] * count)

    def test_rows(self) -> None:
        """Keys of a file of rows, of which only *@domain is a pattern; not all are named."""
        path = os.path.abspath(self.mktemp())
        config = self.load(f"{LISTEN}[tables.people]\nuse = 'file'\npath = '{path}'\n")
        self.assertEqual(list(rowRemarks(config)), [])  # it is not there
        many = [f"a{number}*@example.net" for number in range(MAX_NAMED + 3)]
        for keys, count in (
            (["anna@example.net", "*@example.net", "bob"], 0),
            (["an*@example.net", "*@*.example.net", "*@example.org"], 2),
            (many, MAX_NAMED + 1),
            (["a", "a"], 0),  # none that can be read
        ):
            with open(path, "w", encoding="ascii") as file:
                file.write("".join(f"{key}: x\n" for key in keys))
            found = list(rowRemarks(config))
            self.assertEqual([key for key, _ in found], ["tables.people.path"] * count)
        with open(path, "w", encoding="ascii") as file:
            file.write("".join(f"{key}: x\n" for key in many))
        self.assertEqual(list(rowRemarks(config))[-1][1], "3 more such keys")
