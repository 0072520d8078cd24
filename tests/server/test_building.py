"""
Stages by their names, without a configuration.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import ConfigError
from deferrals.interfaces import IContentStage, IDeliveryStage
from deferrals.server.building import buildStage
from deferrals.server.services import Services


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

    def test_wrong(self) -> None:
        """A name or a setting that is none is an error that says what was expected."""
        for interface, name, settings, said in (
            (IContentStage, "maildir", {}, "expected one of: clamav, http, match"),
            (IDeliveryStage, "nothing", {}, "expected one of: discard"),
            (IDeliveryStage, "maildir", {}, "path"),
            (IDeliveryStage, "maildir", {"path": 5}, "path"),
            (IDeliveryStage, "maildir", {"path": "x", "bad": 1}, "bad"),
        ):
            error = self.assertRaises(
                ConfigError, buildStage, interface, name, self.services, **settings
            )
            self.assertIn(said, str(error))
