"""
What an operator sees and does: the queue, notices, one message's story; while
the server runs and while it does not.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import sqlite3
import stat
from typing import Any

from tests.crash.support import CONFIG, CrashCase, until


class QueueTests(CrashCase):
    """
    C{deferrals queue}, C{explain}, C{status}.
    """

    def listed(self, server: Any, *arguments: str) -> list[dict[str, Any]]:
        done = self.run_(server, "queue", "list", "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_hand(self) -> None:
        """List, show, hold, release, retry, remove, export: with a server and without one."""
        server = self.server(CONFIG)
        first = self.send(server, "<dead-1@a.example>", "<ok@a.example>")
        second = self.send(server, "<dead-2@b.example>", sender="you@client.test")
        until(lambda: len(self.listed(server, "--status", "queued")) == 2, "two wait")
        self.assertEqual(
            stat.S_IMODE(os.stat(os.path.join(server.directory, "state", "control")).st_mode), 0o600
        )
        for _ in range(2):
            self.look(server, first, second)
            server.stop()
        server.start()
        until(lambda: server.log.count("retry by") == 2, "both are tried at the start")
        open(os.path.join(server.directory, "state", "alive"), "w").close()
        self.assertEqual(self.run_(server, "queue", "retry", "--to", "dead-1@*").returncode, 0)
        until(lambda: len(self.listed(server)) == 1, "one has been delivered")
        self.assertEqual(self.run_(server, "queue", "remove", second).returncode, 0)
        self.assertEqual(self.listed(server), [])
        self.assertEqual(self.run_(server, "queue", "show", "0000000000000").returncode, 1)

    def look(self, server: Any, first: str, second: str) -> None:
        """
        What can be done any number of times.
        """
        (one,) = self.listed(server, "--to", "DEAD-1@*")
        self.assertEqual((one["id"], one["attempts"]), (first, 1))
        self.assertEqual(one["reply"], "451 4.4.1 no answer")
        self.assertEqual((one["host"], one["destination"]), ("mx.dead.example", "hop a.example"))
        for arguments, ids in (
            (("--from", "you@*"), [second]),
            (("--destination", "hop b*"), [second]),
            (("--older", "1h"), []),
            (("--newer", "1h"), [first, second]),
            ((first,), [first]),
        ):
            self.assertEqual([one["id"] for one in self.listed(server, *arguments)], ids)
        done = self.run_(server, "queue", "show", first)
        self.assertIn("<dead-1@a.example>", done.stdout)
        self.assertIn("retry mx.dead.example 451 4.4.1 no answer", done.stdout)
        done = self.run_(server, "queue", "export", first)
        self.assertEqual(done.stdout, "Subject: a test\r\n\r\nhello\r\n")
        for verb, status in (("hold", "held"), ("release", "queued")):
            done = self.run_(server, "queue", verb, second)
            self.assertEqual((done.returncode, done.stdout[:12]), (0, "1 recipients"), done.stderr)
            if verb == "hold":
                (one,) = self.listed(server, second)
                self.assertEqual(one["status"], status)
        self.assertEqual(self.run_(server, "queue", "release", second).returncode, 1)
        done = self.run_(server, "queue", "retry")
        self.assertEqual((done.returncode, "say which" in done.stderr), (2, True))
        done = self.run_(server, "queue", "check")
        self.assertEqual((done.returncode, done.stdout), (0, "2 messages, 0 problems\n"))
        until(lambda: len(self.listed(server, "--status", "queued")) == 2, "both wait again")

    def test_explain(self) -> None:
        """One message's story, from a log of either kind: each recipient, stage and attempt."""
        for options in ((), ("--log-format", "json")):
            server = self.server(CONFIG, *options)
            number = self.send(server, "<dead-1@a.example>", "<gone-1@a.example>")
            self.logged(server, "is told by")
            done = self.run_(server, "explain", number, "--log", server.process.log)
            self.assertEqual(done.returncode, 0, done.stderr)
            for text in (
                "to=<dead-1@a.example> retry by * 451 4.4.1 no answer",
                "to=<gone-1@a.example> failed by * 550 5.1.1 nobody of that name",
                "from=<me@client.test>",
                "<me@client.test> is told by",
                "-> <dead-1@a.example>",
            ):
                self.assertIn(text, done.stdout)
            done = self.run_(server, "explain", number)
            self.assertIn("retry mx.dead.example 451 4.4.1", done.stdout)

    def test_status(self) -> None:
        """What the server says of itself: counters, the queue, destinations in trouble."""
        server = self.server(CONFIG)
        for number in range(3):
            self.send(server, f"<dead-{number}@a.example>")
        self.logged(server, "is left alone")
        done = self.run_(server, "status", "--json")
        found = json.loads(done.stdout)
        self.assertEqual(found["queue"]["recipients"], {"queued": 3})
        self.assertEqual(list(found["parts"]["destinations"]), ["hop a.example"])
        server.stop()
        done = self.run_(server, "status")
        self.assertEqual((done.returncode, "does not run" in done.stdout), (1, True))

    def test_damaged(self) -> None:
        """A damaged body is never delivered: moved aside, named in the log and by check."""
        server = self.server(CONFIG)
        good = self.send(server, "<dead-1@a.example>")
        bad = self.send(server, "<dead-2@b.example>")
        until(lambda: len(self.listed(server, "--status", "queued")) == 2, "two wait")
        server.stop()
        path = os.path.join(server.directory, "state", "spool", "spool.sqlite")
        with sqlite3.connect(path) as db:
            db.execute(
                "UPDATE bodies SET body = substr(body, 1, 20)"
                " WHERE id = (SELECT max(id) FROM bodies)"
            )
        db.close()
        done = self.run_(server, "queue", "check")
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{bad} its content is not what was stored", done.stdout)
        open(os.path.join(server.directory, "state", "alive"), "w").close()
        server.start()
        self.logged(server, f"{bad} is damaged, and was moved aside: its content has 20 octets")
        until(lambda: len(self.listed(server)) == 1, "the good one is delivered")
        self.assertIn(good, server.log)
        self.assertNotIn("<dead-2@b.example> delivered", server.log)
        (one,) = self.listed(server)
        self.assertEqual((one["id"], one["status"]), (bad, "damaged"))
        self.assertIn("it was moved aside", self.run_(server, "queue", "check").stdout)


class NoticeTests(CrashCase):
    """
    Senders are told.
    """

    def test_notice(self) -> None:
        """A DSN of a real server, as Python's C{email} reads it (RFC 3464)."""
        server = self.server(CONFIG)
        self.send(server, "<gone-1@a.example>", "<gone-2@a.example>", "<ok@a.example>")
        notices = [
            email.message_from_bytes(one, policy=email.policy.default)
            for one in server.arrived("me", 1)
        ]
        (notice,) = notices
        self.assertEqual(notice["Return-Path"], "<>")
        self.assertEqual(notice["Auto-Submitted"], "auto-replied")
        people, programs, returned = notice.iter_parts()
        perMessage, *perRecipient = programs.get_payload()
        self.assertEqual(perMessage["Reporting-MTA"], "dns; mx.example.net")
        self.assertEqual(
            [(one["Final-Recipient"], one["Action"]) for one in perRecipient],
            [("rfc822; gone-1@a.example", "failed"), ("rfc822; gone-2@a.example", "failed")],
        )
        self.assertEqual(perRecipient[0]["Diagnostic-Code"], "smtp; 550 5.1.1 nobody of that name")
        self.assertEqual(perRecipient[0]["Remote-MTA"], "dns; mx.gone.example")
        self.assertEqual(returned.get_content_type(), "text/rfc822-headers")
        self.assertIn("<gone-2@a.example>", people.get_content())
        self.assertNotIn("ok@a.example", notice.as_string())
