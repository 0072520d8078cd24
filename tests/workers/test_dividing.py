"""
What one worker has of what all have together.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.task import Clock

from deferrals.app.stages import StageSet
from deferrals.model.schedule import CONCURRENCY
from deferrals.server.services import Services
from deferrals.workers.dividing import divided
from tests.configs import LISTEN, ConfigCase
from tests.test_leaks import CONVERTER, SETTINGS, plugins, structured

CONFIG = f"""
workers = 4
max_judging = 10
max_delivering = 3
{LISTEN}
[deliveries.out]
use = "smtp"
endpoint = "tcp:host=next.example:port=25"
connections = 9
concurrency = 8
[deliveries.more]
use = "smtp"
endpoint = "tcp:host=more.example:port=25"
[policies.p]
content = [
  {{ use = "clamav", socket = "unix:/run/clamd" }},
  {{ use = "match", rules = [ {{ test = "eicar" }} ] }},
]
quarantine = {{ use = "maildir", path = "q" }}
[[recipients]]
match = "*@x.example"
policy = "p"
deliver = {{ use = "lmtp", endpoint = "tcp:host=box.example:port=24", connections = 2 }}
check = [ {{ use = "callout", endpoint = "tcp:host=box.example:port=24", connections = 12 }} ]
"""


class DividedTests(ConfigCase):
    """
    L{divided}.
    """

    def test_each(self) -> None:
        """Each number that says how much may be under way is divided; one is the least."""
        config = self.load(CONFIG)
        part = divided(config, 4)
        self.assertEqual((part.max_judging, part.max_delivering), (2, 1))
        (rule,) = part.recipients
        content, match = part.policies["p"].content
        settings = [one.settings for one in (part.deliveries["out"], rule.deliver, *rule.check)]
        self.assertEqual([one.connections for one in settings], [2, 1, 3])
        self.assertEqual(content.settings.concurrency, 2)
        self.assertEqual(match, config.policies["p"].content[1])
        self.assertEqual((part.path, part.text), (config.path, config.text))
        self.assertEqual(attrs.evolve(part, workers=1).listen, config.listen)

    def test_schedules(self) -> None:
        """So are messages on their way to one destination, also where nothing says how many."""
        config = self.load(CONFIG)
        for one, wanted in (
            (config, (8, None, None)),
            (divided(config, 4), (2, CONCURRENCY // 4, None)),
        ):
            schedules = StageSet(one, Services(Clock(), hostname="mx")).schedules
            names = ("out", "more", "policies.p.quarantine")
            self.assertEqual(tuple(schedules[name].concurrency for name in names), wanted)

    def test_every(self) -> None:
        """The settings of every stage can be made again of themselves."""
        for key, plugin in plugins().items():
            settings: Any = structured(CONVERTER, SETTINGS[key], plugin.settings)
            self.assertEqual(attrs.evolve(settings), settings, key)
