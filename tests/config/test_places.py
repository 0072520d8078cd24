"""
Where in a file a key stands.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.config.places import described, lineOf
from deferrals.errors import ConfigError

TEXT = '''hostname = "mx"
[[listen]]
endpoint = "a"
[[listen]]
  endpoint = "b"
[policies.strict]
content = [
  { use = "match" },
]
reply = """
[[listen]]
limits = 3"""
[[recipients]]
match = "a"
[recipients.deliver]
use = "mx"
[[recipients]]
match = "b"
'''


class LineTests(SynchronousTestCase):
    """
    L{lineOf}.
    """

    def test_found(self) -> None:
        """The line of the key, or of what has it."""
        for key, number in (
            ("hostname", 1),
            ("listen[0].endpoint", 3),
            ("listen[1].endpoint", 5),
            ("listen[1].tls", 4),
            ("listen", 2),
            ("policies.strict.content[0].rules", 7),
            ("policies.strict.reply", 10),
            ("policies", 6),
            ("recipients[0].deliver.use", 16),
            ("recipients[1].match", 18),
            ("limits.recipients", None),
            ("listen[2].endpoint", None),
        ):
            self.assertEqual(lineOf(TEXT, key), number, key)

    def test_described(self) -> None:
        """Each problem is one line, which says where it is."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(TEXT)
        error = ConfigError(
            path, [("hostname", "expected x"), ("", "y"), ("limits.z", "expected z")]
        )
        self.assertEqual(
            described(error).split("\n"),
            [
                f"{path}: hostname: expected x (line 1)",
                f"{path}: y",
                f"{path}: limits.z: expected z",
            ],
        )
        for nowhere in (None, self.mktemp()):
            error = ConfigError(nowhere, [("hostname", "expected x")])
            self.assertEqual(described(error), str(error))
