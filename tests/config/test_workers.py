"""
The key C{workers}.
"""

from __future__ import annotations

import os

from tests.configs import LISTEN, ConfigCase


class WorkersTests(ConfigCase):
    """
    How many processes there are.
    """

    def test_number(self) -> None:
        """One, unless the configuration says how many; C{auto} is one for each processor."""
        self.assertEqual(self.load(LISTEN).workers, 1)
        for number in (1, 4, 64):
            self.assertEqual(self.load(f"workers = {number}\n{LISTEN}").workers, number)
        self.patch(os, "sched_getaffinity", lambda pid: {0, 3, 5})
        self.assertEqual(self.load(f'workers = "auto"\n{LISTEN}').workers, 3)
        self.patch(os, "sched_getaffinity", lambda pid: set(range(200)))
        self.assertEqual(self.load(f'workers = "auto"\n{LISTEN}').workers, 64)

    def test_nonsense(self) -> None:
        """What is no number of processes is said."""
        for text in ("0", "65", "-1", "true", "2.0", '"two"', "[2]"):
            problems = self.problems(f"workers = {text}\n{LISTEN}")
            self.assertEqual(problems, ['workers: expected a number from 1 to 64, or "auto"'])

    def test_endpoints(self) -> None:
        """Several share what can be bound once; one process listens wherever Twisted does."""
        good = ("tcp:25", "tcp6:26", "haproxy:tcp:27", "unix:/run/lmtp", "systemd:domain=INET")
        listeners = [f'[[listen]]\nendpoint = "{one}"\n' for one in good]
        text = 'bounces = "none"\n' + "".join(listeners)
        self.load(f"workers = 2\n{text}")
        text += '[[listen]]\nendpoint = "ssl:465:privateKey=x"\n'
        self.load(text)
        self.assertEqual(
            self.problems(f"workers = 4\n{text}"),
            [
                "listen[5].endpoint: expected tcp:, tcp6:, unix:, systemd:,"
                " perhaps behind haproxy:, with workers = 4"
            ],
        )

    def test_spools(self) -> None:
        """The first worker has the spool that one process has."""
        config = self.load(f'state_dir = "/srv/state"\nworkers = 3\n{LISTEN}')
        self.assertEqual(config.spoolOf(0), config.spoolDirectory)
        self.assertEqual(config.spoolOf(2), "/srv/state/workers/2/spool")
