"""
A dead destination beside live ones; and clocks that are set.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

from tests.crash.fill import fill
from tests.crash.support import CONFIG, CrashCase, until
from tests.rigs import rig

#: Queued for one dead host.
COUNT = rig(5_000, 50_000)


class DeadTests(CrashCase):
    """
    Live mail beside many who wait.
    """

    def latencies(self, server: Any, count: int) -> float:
        """
        @return: how long a message takes from connection to mailbox: the median.
        """
        found = []
        before = len(server.mail("live"))
        for number in range(count):
            began = time.monotonic()
            self.send(server, "<live@example.net>")
            until(lambda wanted=before + number + 1: len(server.mail("live")) >= wanted, "mail")
            found.append(time.monotonic() - began)
        return statistics.median(found)

    def test_dead(self) -> None:
        """Live mail arrives beside many recipients for a dead host, which is asked seldom."""
        server = self.server(CONFIG)
        alone = self.latencies(server, 30)
        server.stop()
        fill(os.path.join(server.directory, "state", "spool"), COUNT, "dead.example")
        began = time.monotonic()
        server.start()
        start = time.monotonic() - began
        self.logged(server, "hop dead.example is left alone")
        beside = self.latencies(server, 30)
        attempts = server.log.count("retry by")
        print(
            f"live mail: {alone * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside {COUNT};"
            f" start {start:.1f} s; {attempts} attempts on the dead host"
        )
        self.assertLess(attempts, 300)
