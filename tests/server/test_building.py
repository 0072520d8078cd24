"""
Stages by their names, without a configuration.
"""

from __future__ import annotations

import contextlib
import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import ConfigError
from deferrals.interfaces import IContentStage, IDeliveryStage, ITable
from deferrals.server.building import buildStage
from deferrals.server.services import Services
from deferrals.testing import tableKeys


class BuildTests(SynchronousTestCase):
    """
    L{buildStage}.
    """

    def setUp(self) -> None:
        self.services = Services(Clock(), hostname="mx.test", baseDir=self.mktemp())

    def test_built(self) -> None:
        """The name and the settings are those of a configuration's table."""
        stage = buildStage(IDeliveryStage, "maildir", self.services, path="mail/{local}")
        self.assertTrue(IDeliveryStage.providedBy(stage))

    def test_table(self) -> None:
        """A table has its frame, with the settings of both."""
        os.mkdir(self.services.baseDir)
        table = buildStage(ITable, "file", self.services, path="people", cache="1h")
        with open(os.path.join(self.services.baseDir, "people"), "w") as file:
            file.write("a@x.example: 1\n")
        for _ in range(2):
            row = self.successResultOf(table.lookUp(tableKeys("a@x.example")))
            self.assertEqual(row, {"value": "1"})
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)  # it is remembered

    def test_wrong(self) -> None:
        """A name or a setting that is none is an error that says what was expected."""
        for interface, name, settings, said in (
            (IContentStage, "maildir", {}, "expected one of: authenticate, clamav, http, match"),
            (IDeliveryStage, "nothing", {}, "expected one of: discard"),
            (IDeliveryStage, "maildir", {}, "path"),
            (IDeliveryStage, "maildir", {"path": 5}, "path"),
            (ITable, "file", {"path": "x", "stale": "y"}, "stale"),
            (IDeliveryStage, "maildir", {"path": "x", "bad": 1}, "bad"),
        ):
            error = self.assertRaises(
                ConfigError, buildStage, interface, name, self.services, **settings
            )
            self.assertIn(said, str(error))
