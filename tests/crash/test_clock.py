"""
The clock is set, by hours, under a running server: nothing expires early, and
nothing is stuck.
"""

from __future__ import annotations

import os
import re
from typing import Any

from tests.crash.support import CONFIG, CrashCase, until

CLOCK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clock")

#: Given up after an hour, tried again every other second.
QUICK = CONFIG.replace('retry = "1h", expire = "5d", warn = "4h"', 'retry = 1, expire = "1h"')


class ClockTests(CrashCase):
    """
    A server whose time of day is wrong, and is put right; or the other way.
    """

    def setUp(self) -> None:
        super().setUp()
        self.file = os.path.join(self.directory(), "clock")
        self.set(0)
        os.environ["DEFERRALS_TEST_CLOCK"] = self.file
        self.addCleanup(os.environ.pop, "DEFERRALS_TEST_CLOCK")
        os.environ["PYTHONPATH"] = os.pathsep.join([CLOCK, os.environ["PYTHONPATH"]])

    def set(self, seconds: float) -> None:
        with open(f"{self.file}.new", "w", encoding="ascii") as file:
            file.write(str(seconds))
        os.rename(f"{self.file}.new", self.file)

    def test_set(self) -> None:
        """Forward by ten hours, back by twenty: it is tried as before, and nobody is told."""
        server = self.server(QUICK)
        number = self.send(server, "<dead-1@a.example>")

        def attempts() -> int:
            return len(re.findall(rf"{number} to=<dead-1@\S+> retry by", server.log))

        for hours in (10, -10, 0):
            self.set(hours * 3600)
            # The scheduler backs a hop off that fails again and again: an
            # operator says when.
            before = attempts()
            self.retry(server, number)
            until(lambda before=before: attempts() > before, f"an attempt {hours} hours off")
            other = self.send(server, f"<ok-{hours}@a.example>")
            until(lambda other=other: f"{other} to=<ok-" in server.log, "live mail")
        self.assertNotIn("is told by", server.log)
        self.assertNotIn("failed by", server.log)
        # The time of day is still what people are told.
        self.set(36000)
        late = self.send(server, "<dead-2@a.example>")
        self.assertGreater(late[:7], number[:7])

    def retry(self, server: Any, number: str) -> None:
        def due() -> bool:
            return bool(self.run_(server, "queue", "retry", number).returncode == 0)

        until(due, "it waits")
