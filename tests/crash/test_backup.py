"""
A queue is backed up under load, restored and moved as docs/operations.md says it.
"""

from __future__ import annotations

import os
import re
import shutil
import threading

from tests.crash.support import CONFIG, CrashCase
from tests.integration.support import ROOT, Server


class BackupTests(CrashCase):
    """
    With a server that takes mail all the time.
    """

    def loaded(self, server: Server, stopping: threading.Event, ids: list[str]) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            ids.append(self.large(server, f"dead-{number}@x.example", 300_000 * (number % 2)))

    def large(self, server: Server, recipient: str, size: int) -> str:
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        for line in ("EHLO x", "MAIL FROM:<me@client.test>", f"RCPT TO:<{recipient}>", "DATA"):
            dialogue.say(line)
        lines = b"x" * 76 + b"\r\n"
        dialogue.socket.sendall(b"Subject: x\r\n\r\n" + lines * (size // 78 + 1) + b".\r\n")
        reply = dialogue.reply()
        self.assertTrue(reply.startswith("250"), reply)
        dialogue.close()
        return str(reply.rsplit(" ", 1)[1])

    def listed(self, server: Server) -> set[str]:
        found = self.run_(server, "queue", "list").stdout
        return set(re.findall(r"^(\w{13}) ", found, re.M))

    def test_backup(self) -> None:
        """All that was acknowledged before is in it; restored, it is whole, without an alarm."""
        server = self.server(CONFIG)
        before = {self.large(server, f"dead-0{n}@x.example", 300_000 * (n % 2)) for n in range(6)}
        stopping, ids = threading.Event(), list[str]()
        load = threading.Thread(target=self.loaded, args=(server, stopping, ids))
        load.start()
        copy = os.path.join(server.directory, "copy")
        done = self.run_(server, "queue", "backup", copy)
        stopping.set()
        load.join()
        self.assertEqual(done.returncode, 0, done.stderr)
        server.stop()
        spool = os.path.join(server.directory, "state", "spool")
        os.rename(spool, f"{spool}.away")
        shutil.copytree(copy, spool)
        size = len(server.log)
        server.start()
        found = self.listed(server)
        self.assertLessEqual(before, found)
        self.assertLessEqual(found, before | set(ids))
        checked = self.run_(server, "queue", "check")
        self.assertEqual(checked.returncode, 0, checked.stdout)
        self.assertIn(f"{len(found)} messages, 0 problems", checked.stdout)
        self.assertIn("0 set aside", self.run_(server, "queue", "rescue").stdout)
        self.assertNotIn("critical", server.log[size:])

    def test_move(self) -> None:
        """A state directory that is copied as a whole, while no server runs, is one."""
        server = self.server(CONFIG)
        sent = {self.large(server, f"dead-{n}@x.example", 300_000 * (n % 2)) for n in range(4)}
        server.stop()
        state = os.path.join(server.directory, "state")
        shutil.copytree(state, f"{state}.new", ignore=shutil.ignore_patterns("control"))
        shutil.rmtree(state)
        os.rename(f"{state}.new", state)
        size = len(server.log)
        server.start()
        self.assertEqual(self.listed(server), sent)
        self.assertNotIn("critical", server.log[size:])

    def test_page(self) -> None:
        """The page names the command."""
        with open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as file:
            self.assertIn("\ndeferrals queue backup /backup/queue ", file.read())
