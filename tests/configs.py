"""
Configurations from text, for tests.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

import deferrals
from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError
from deferrals.interfaces import IStagePlugin
from deferrals.plugins.finding import stagePlugins

DOCS = os.path.join(os.path.dirname(os.path.dirname(deferrals.__file__)), "docs")

#: One rule, which takes all.
RULES = """
[policies.open]
[[recipients]]
match = "*@x.example"
policy = "open"
deliver = { use = "discard" }
"""

LISTEN = 'bounces = "none"\n[[listen]]\nendpoint = "tcp:2525"\n'


class ConfigCase(SynchronousTestCase):
    """
    Reads configurations.
    """

    def load(self, text: str, *more: IStagePlugin) -> Config:
        self.path = self.mktemp()
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)
        return load(self.path, stagePlugins() | {(one.stage, one.name): one for one in more})

    def problems(self, text: str, *more: IStagePlugin) -> list[str]:
        error = self.assertRaises(ConfigError, self.load, text, *more)
        for line in str(error).splitlines():
            self.assertTrue(line.startswith(f"{self.path}: "), line)
        return [f"{key}: {expected}" for key, expected in error.problems]
