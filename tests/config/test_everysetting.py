"""
All stages of a configuration, with their keys.
"""

from __future__ import annotations

from deferrals.config.everysetting import everySetting, settingsOf
from deferrals.stages.delivery.maildir import MaildirSettings
from tests.configs import ConfigCase

CONFIG = """
hostname = "mx.example.net"
bounces = "none"
[[listen]]
endpoint = "tcp:0"
[policies.strict]
envelope = "defer"
content = [
  { use = "match", rules = [{ test = "gtube" }] },
  { use = "match", rules = [{ test = "eicar" }] },
]
quarantine = { use = "maildir", path = "refused" }
[policies.open]
envelope = "accept"
quarantine = "named"
[deliveries.named]
use = "maildir"
path = "named/{local}"
[[recipients]]
match = "a@example.net"
policy = "strict"
check = [{ use = "users", sqlite = "users.db" }]
deliver = "named"
[[recipients]]
match = "*@example.net"
policy = "strict"
deliver = { use = "maildir", path = "mail/{local}" }
"""


class EverySettingTests(ConfigCase):
    """
    L{everySetting} and L{settingsOf}.
    """

    def setUp(self) -> None:
        self.config = self.load(CONFIG)

    def test_all(self) -> None:
        """Each stage is there once; what is only named is not there twice."""
        self.assertEqual(
            [key for key, _ in everySetting(self.config)],
            [
                "submission",
                "policies.strict.content[0]",
                "policies.strict.content[1]",
                "policies.strict.quarantine",
                "deliveries.named",
                "recipients[0].check[0]",
                "recipients[1].deliver",
            ],
        )

    def test_kind(self) -> None:
        """Those of one kind, wherever they stand."""
        self.assertEqual(
            [(key, one.path) for key, one in settingsOf(self.config, MaildirSettings)],
            [
                ("policies.strict.quarantine", "refused"),
                ("deliveries.named", "named/{local}"),
                ("recipients[1].deliver", "mail/{local}"),
            ],
        )
