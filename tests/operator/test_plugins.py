"""
C{deferrals plugins}.
"""

from __future__ import annotations

import io
import json
import sys

from deferrals.cli import main
from tests.plugins.test_finding import PLUGIN, PluginCase


class CommandTests(PluginCase):
    """
    What it writes.
    """

    def run_(self, *words: str) -> tuple[int, str, str]:
        """
        @return: the exit status, standard output, standard error.
        """
        self.patch(sys, "stdout", io.StringIO())
        self.patch(sys, "stderr", io.StringIO())
        status = main(["plugins", *words])
        return status, sys.stdout.getvalue(), sys.stderr.getvalue()  # type: ignore[attr-defined]

    def test_list(self) -> None:
        """A line for each: interface, name, module, file."""
        path = self.write("mine_plugin", PLUGIN.format(name="mine", stage="IDeliveryStage"))
        status, out, err = self.run_()
        self.assertEqual((status, err), (0, ""))
        (line,) = [line for line in out.splitlines() if " mine " in line]
        self.assertEqual(
            line.split(), ["IDeliveryStage", "mine", "deferrals.plugins.mine_plugin", path]
        )

    def test_json(self) -> None:
        """For programs."""
        _, out, _ = self.run_("--json")
        self.assertIn("match", [one["name"] for one in json.loads(out)])

    def test_problems(self) -> None:
        """What cannot be used, and what is there twice, is said, and is the exit status."""
        self.write("twice_plugin", PLUGIN.format(name="match", stage="IContentStage"))
        self.write("broken_plugin", "1 / 0\n")
        status, out, err = self.run_()
        self.assertEqual(status, 1)
        self.assertIn("broken_plugin.py: cannot be imported: ZeroDivisionError", err)
        self.assertIn("two stages of IContentStage are called match", err)
        self.assertEqual(len([line for line in out.splitlines() if " match " in line]), 2)
