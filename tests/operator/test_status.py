"""
What C{deferrals status} says, and how it exits.
"""

from __future__ import annotations

import argparse
import io
import json
import unittest.mock
from contextlib import redirect_stdout
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.operator.status import CRITICAL, GOOD, UNKNOWN, WARNING, alarms, level, status


class StatusTests(SynchronousTestCase):
    """
    L{status}.
    """

    FOUND = {
        "numbers": {"messages": 0, "recipients": {}},
        "status": {
            "counters": {"submission": {"held": 2}},
            "parts": {
                "submission": {
                    "logins": 2,
                    "most_used": {
                        "alice": {"messages": [5, 500], "recipients": [7, 2000], "octets": [9, 99]}
                    },
                },
                "other": {"a": 1},
            },
        },
    }

    def shown(self, isJSON: bool) -> str:
        connection: Any = unittest.mock.Mock(running=True, missing={})
        connection.call = lambda name: self.FOUND[name]
        with redirect_stdout(io.StringIO()) as out:
            self.assertEqual(
                status(connection, argparse.Namespace(json=isJSON, check=False, oldest="4h")), 0
            )
        return out.getvalue()

    def test_away(self) -> None:
        """A server whose queue cannot be read says all else, and what is wrong."""
        connection: Any = unittest.mock.Mock(running=True, missing={})

        def call(name: str) -> Any:
            if name == "numbers":
                raise DeferralsError("connection refused")
            return {"reasons": ["spool"], "parts": {"notes": {"state": "resting"}}}

        connection.call = call
        for check, wanted in ((False, 0), (True, CRITICAL)):
            with redirect_stdout(io.StringIO()) as out:
                asked = argparse.Namespace(json=False, check=check, oldest="4h")
                self.assertEqual(status(connection, asked), wanted)
            said = out.getvalue()
            self.assertIn("critical: the queue cannot be read: connection refused", said)
        with redirect_stdout(io.StringIO()) as out:
            status(connection, argparse.Namespace(json=True, check=False, oldest="4h"))
        self.assertEqual(json.loads(out.getvalue())["queue"], {"unknown": "connection refused"})
        connection.running = False
        asked = argparse.Namespace(json=False, check=False, oldest="4h")
        self.assertRaises(DeferralsError, status, connection, asked)

    def test_submission(self) -> None:
        """How much each login has sent, in words, and for programs."""
        lines = self.shown(False).splitlines()
        self.assertIn("submission: 2 held", lines)
        self.assertIn("submission: 2 logins have sent within the hour", lines)
        self.assertIn("  alice: 5 of 500 messages, 7 of 2000 recipients, 9 of 99 octets", lines)
        self.assertIn("other: a 1", lines)
        found = json.loads(self.shown(True))
        self.assertEqual(
            found["parts"]["submission"]["most_used"]["alice"]["recipients"], [7, 2000]
        )


class AlarmTests(SynchronousTestCase):
    """
    L{alarms}, and what monitoring makes of them.
    """

    def found(self, **changes: Any) -> dict[str, Any]:
        queue = {"messages": 1, "recipients": {"queued": 9, "stuck": 0}, "oldest_seconds": 100}
        return {"running": True, "queue": queue, "reasons": [], "parts": {}, **changes}

    def whats(self, oldest: float = 3600, **changes: Any) -> list[str]:
        return [one["what"] for one in alarms(self.found(**changes), oldest)]

    def test_none(self) -> None:
        """On a normal day there is none."""
        self.assertEqual(self.whats(), [])

    def test_stuck(self) -> None:
        """What can be told to no sender is an alarm; so is what cannot be read."""
        found = alarms(self.found(queue={"recipients": {"stuck": 2, "damaged": 1}}), 3600)
        self.assertEqual([one["what"] for one in found], ["stuck", "damaged"])
        self.assertTrue(found[0]["text"].startswith("2 recipients are stuck"))
        self.assertEqual(level(found), WARNING)

    def test_service(self) -> None:
        """A service that rests is one, with its name and why."""
        parts = {"rspamd x": {"state": "resting", "last_error": "refused"}, "mx": {"state": "ok"}}
        (alarm,) = alarms(self.found(parts=parts), 3600)
        self.assertEqual(alarm["text"], "rspamd x is left alone: refused")
        self.assertEqual(level([alarm]), WARNING)

    def test_late(self) -> None:
        """Mail that is too old is one."""
        self.assertEqual(self.whats(99), ["late"])
        self.assertEqual(self.whats(100), [])

    def test_critical(self) -> None:
        """A server that takes no mail comes first."""
        parts = {"x": {"state": "probing"}}
        self.assertEqual(self.whats(reasons=["spool"], parts=parts), ["spool", "service"])
        self.assertEqual(self.whats(running=False), ["running"])
        self.assertEqual(level(alarms(self.found(running=False), 3600)), CRITICAL)

    def check(self, *, running: bool = True, error: Exception | None = None, **changes: Any) -> Any:
        found = self.found(**changes)
        answers = {"numbers": found.pop("queue"), "status": found}
        found.pop("running")

        def call(name: str) -> Any:
            if error is not None:
                raise error
            return answers[name]

        connection: Any = unittest.mock.Mock(running=running, missing={})
        connection.call = call
        arguments = argparse.Namespace(json=False, check=True, oldest="4h")
        with redirect_stdout(io.StringIO()) as out:
            code = status(connection, arguments)
        return code, out.getvalue()

    def test_check(self) -> None:
        """The exit statuses that monitoring understands, and one line."""
        self.assertEqual(self.check(), (GOOD, "good: 1 messages in the queue\n"))
        old = {"messages": 1, "recipients": {}, "oldest_seconds": 14401}
        self.assertEqual(self.check(queue=old)[0], WARNING)
        self.assertEqual(self.check(reasons=["listeners"])[0], CRITICAL)
        self.assertEqual(self.check(running=False)[0], CRITICAL)
        code, text = self.check(error=DeferralsError("the server does not answer"))
        self.assertEqual((code, text), (UNKNOWN, "unknown: the server does not answer\n"))

    def test_people(self) -> None:
        """What is wrong first, then version, uptime and rates."""
        answers: dict[str, Any] = {
            "numbers": {"messages": 1, "recipients": {"stuck": 1}, "oldest_seconds": 7200},
            "status": {
                "version": "1.2",
                "uptime_seconds": 7200,
                "rates": {"transactions": 2.5},
                "parts": {
                    "destinations": {},
                    "next hops": {
                        "connections": [{"server": "a", "idle": 1}, {"server": "b", "idle": 0}],
                        "misgivings": [],
                    },
                },
            },
        }
        connection: Any = unittest.mock.Mock(running=True, missing={})
        connection.call = lambda name: answers[name]
        with redirect_stdout(io.StringIO()) as out:
            status(connection, argparse.Namespace(json=False, check=False, oldest="1h"))
        lines = out.getvalue().splitlines()
        self.assertTrue(lines[0].startswith("warning: 1 recipients are stuck"))
        self.assertEqual(lines[1], "warning: the oldest mail has waited for 2h")
        self.assertEqual(lines[2:4], ["deferrals 1.2 runs, for 2h", "per minute: 2.5 transactions"])
        self.assertIn("destinations: none", lines)
        owner = {"machine": "mx1", "worker": 0, "owner": 3, "up": True, "owners": 4, "machines": 2}
        wanted = "mx1 is one of 2 machines, with 4 processes, that share a database"
        for part in (owner, {"worker 0": owner, "worker 1": owner}):
            answers["status"]["parts"]["owner"] = part
            with redirect_stdout(io.StringIO()) as out:
                status(connection, argparse.Namespace(json=False, check=False, oldest="1h"))
            self.assertIn(wanted, out.getvalue().splitlines())
        hops = "next hops: connections server a idle 1; server b idle 0, misgivings none"
        self.assertIn(hops, lines)
