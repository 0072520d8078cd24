"""
Which stages are found.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IContentStage, IDeliveryStage
from deferrals.plugins.finding import stagePlugins


class PluginTests(SynchronousTestCase):
    """
    The stages that come with the server.
    """

    def test_builtin(self) -> None:
        """They are found by interface and name, and their settings are attrs classes."""
        found = stagePlugins()
        self.assertIn((IContentStage, "match"), found)
        self.assertIn((IDeliveryStage, "maildir"), found)
        for plugin in found.values():
            self.assertTrue(hasattr(plugin.settings, "__attrs_attrs__"), plugin.name)
