"""
What has been set aside is listed, shown, taken back and removed.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.model.ids import formatId
from deferrals.model.selection import Selection
from deferrals.spool.message import MEMORY_OCTETS, ownMessage
from deferrals.spool.sqlite import belonging, rescue
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.recovery import saveClock
from tests.spool.sqlite.test_belonging import SpoolCase


class RescueTests(SpoolCase):
    """
    The operator's commands, through a queue.
    """

    def setUp(self) -> None:
        super().setUp()
        self.view = self.queue()

    def result(self, command: str, name: str) -> Any:
        found = self.reactor.wait(self.view.rescue(command, name))
        if hasattr(found, "raiseException"):
            found.raiseException()
        return found

    def listed(self) -> dict[str, Any]:
        return {one["name"]: one for one in self.reactor.wait(self.view.aside())}

    def statuses(self) -> dict[str, str]:
        found, _ = self.reactor.wait(self.view.recipients(Selection(), 100, None))
        return {one["id"]: one["status"] for one in found}

    def lost(self) -> str:
        """
        The database becomes one of 0 octets.

        @return: the name of what was set aside then.
        """
        files = self.killed()
        os.truncate(files.database, 0)
        # As it was before, its database beside it: what is aside is whole.
        self.reactor.wait(self.spool.close())
        self.spool = self.opened(files.directory)
        (name,) = (one for one in files.namesAside() if one.startswith("spool-"))
        shutil.copy(self.whole.database, f"{files.damaged}/{name}/spool.sqlite")
        shutil.copy(self.whole.log, f"{files.damaged}/{name}/spool.sqlite-wal")
        self.view = self.queue()
        return name

    def withLost(self, *sizes: int) -> tuple[str, list[str]]:
        works = [self.staged(size=size) for size in sizes]
        self.whole = self.killed()
        return self.lost(), [work.envelope.id for work in works]

    def test_nothing(self) -> None:
        """Where nothing was set aside, nothing is listed."""
        self.assertEqual(self.listed(), {})
        for command in ("show", "restore", "remove"):
            with self.assertRaisesRegex(ValueError, "nothing that is called x"):
                self.result(command, "x")
        with self.assertRaisesRegex(ValueError, "no such command"):
            self.view.rescue("drop", "x")

    def test_outside(self) -> None:
        """No name leads out of the directory."""
        for name in ("..", "../spool.sqlite", "/etc/passwd", ""):
            with self.assertRaises(ValueError):
                self.result("remove", name)
        self.assertTrue(os.path.exists(self.spool.store.files.database))

    def test_database(self) -> None:
        """A database is listed with the reason, shown with its messages, and taken back, held."""
        name, ids = self.withLost(10, MEMORY_OCTETS)
        listed = self.listed()
        self.assertEqual(set(listed), {name, ids[1]})
        self.assertEqual(listed[name]["kind"], "database")
        self.assertIn("is of 0 octets", listed[name]["why"])
        shown = self.result("show", name)
        self.assertEqual([one["id"] for one in shown["messages"]], ids)
        self.assertEqual(shown["messages"][0]["recipients"], ["a@b.example"])
        done = self.result("restore", name)
        self.assertEqual((done["restored"], done["skipped"]), (ids, {}))
        self.assertEqual(self.statuses(), dict.fromkeys(ids, "held"))
        self.assertEqual(set(self.listed()), {name})
        problems, count, _ = self.reactor.wait(self.view.inspect(None))
        self.assertEqual((problems, count), ([], 2))
        again = self.result("restore", name)
        self.assertEqual(again["restored"], [])
        self.assertEqual(again["skipped"], dict.fromkeys(ids, "it is in the queue"))
        self.result("remove", name)
        self.assertEqual(self.listed(), {})
        self.assertNotIn("rescue.sqlite", os.listdir(self.spool.store.files.directory))

    def test_otherTime(self) -> None:
        """What comes from a spool whose time was another one is as old as it was there."""
        name, _ = self.withLost(10)
        path = f"{self.spool.store.files.damaged}/{name}/spool.sqlite"
        db = connect(path)
        saveClock(db, 0.0, 9e8)
        db.execute("UPDATE messages SET since = 9e8 - 100")
        db.execute("UPDATE recipients SET due = 9e8, expires = 9e8 + 50, notice = 9e8 + 50")
        db.close()
        self.result("restore", name)
        now = self.spool.store.clock.now()
        sql = "SELECT since, due, expires, notice FROM messages JOIN recipients ON id = message"
        (found,) = self.reactor.wait(self.spool.store.run(lambda db: db.execute(sql).fetchall()))
        self.assertEqual([round(one - now) for one in found], [-100, 0, 50, 50])

    def test_changed(self) -> None:
        """A content that is not what was stored is not taken back, and named."""
        name, (text,) = self.withLost(MEMORY_OCTETS)
        with open(self.spool.store.files.damagedBody(rescue.number(text)), "r+b") as file:
            file.write(b"y")
        done = self.result("restore", name)
        self.assertEqual(done["restored"], [])
        self.assertEqual(done["skipped"], {text: "its content is not what was stored"})
        self.assertEqual(self.statuses(), {})

    def test_content(self) -> None:
        """A content is shown, and taken back with what a database that is aside knows of it."""
        name, (text,) = self.withLost(MEMORY_OCTETS)
        shown = self.result("show", text)
        self.assertEqual(shown["kind"], "content")
        self.assertEqual(shown["id"], text)
        self.assertEqual(len(shown["header"]), 1)
        done = self.result("restore", text)
        self.assertEqual((done["restored"], done["status"]), ([text], "held"))
        self.assertEqual(self.statuses(), {text: "held"})
        self.assertEqual(set(self.listed()), {name})

    def test_orphan(self) -> None:
        """A content of which nothing is known can be exported, and is not taken back."""
        name, (text,) = self.withLost(MEMORY_OCTETS)
        self.result("remove", name)
        with self.assertRaisesRegex(SpoolError, f"`deferrals queue export {text}` writes it"):
            self.result("restore", text)
        number = rescue.number(text)
        message = self.reactor.wait(self.view.content(number))
        with message.open() as file:
            self.assertEqual(file.read(), b"x" * MEMORY_OCTETS + b"\r\n")
        self.result("remove", text)
        self.assertEqual(self.listed(), {})

    def test_damaged(self) -> None:
        """The content of a message that was damaged for its sake: its recipients are due again."""
        work = self.staged(size=MEMORY_OCTETS)
        self.spool.release(work, {})
        number, files = work.envelope.transaction, self.spool.store.files
        message = ownMessage(work.message)
        self.reactor.wait(Deferred.fromCoroutine(self.spool._setAside(work, message, "wrong")))
        self.assertEqual(set(self.listed()), {work.envelope.id})
        path = files.damagedBody(number)
        with open(path, "r+b") as file:
            file.write(b"y")
        with self.assertRaisesRegex(SpoolError, "not what was stored"):
            self.result("restore", work.envelope.id)
        with open(path, "r+b") as file:
            file.write(b"x")
        done = self.result("restore", work.envelope.id)
        self.assertEqual(done["status"], "queued")
        self.assertTrue(files.hasBody(number))
        self.assertEqual(self.listed(), {})
        self.assertEqual(self.statuses(), {work.envelope.id: "queued"})

    def test_ownerless(self) -> None:
        """A message of which is not known to whom it should go."""
        work = self.staged()
        text = work.envelope.id
        self.reactor.wait(
            self.spool.store.run(
                lambda db: db.executescript("DELETE FROM recipients; UPDATE messages SET state = 2")
            )
        )
        self.assertEqual(self.listed()[text]["kind"], "message")
        self.assertEqual(self.result("show", text)["octets"], 12)
        with self.assertRaisesRegex(SpoolError, "it is not known to whom it should go"):
            self.result("restore", text)
        self.result("remove", text)
        self.assertEqual(self.listed(), {})

    def test_log(self) -> None:
        """Of a log alone what it holds can be taken back."""
        work = self.staged()
        files = self.killed()
        path = os.path.join(self.spool.store.files.damaged, "log-then")
        os.makedirs(path)
        shutil.copy(files.log, path)
        self.spool.abandon(work)
        self.reactor.wait(self.spool.waiting())
        self.assertEqual(self.listed()["log-then"]["kind"], "log")
        done = self.result("restore", "log-then")
        self.assertEqual(done["restored"], [work.envelope.id])

    def test_unknown(self) -> None:
        """What is none of ours is listed, too."""
        files = self.spool.store.files
        os.makedirs(files.damaged)
        with open(os.path.join(files.damaged, "notes.txt"), "w") as file:
            file.write("x")
        one = self.listed()["notes.txt"]
        self.assertEqual((one["kind"], one["octets"]), ("file", 1))
        self.result("show", "notes.txt")
        self.result("remove", "notes.txt")
        self.assertEqual(self.listed(), {})

    def test_names(self) -> None:
        """A second content of the same message has another name."""
        files = self.spool.store.files
        for text in "ab":
            with open(files.body(7), "w") as file:
                file.write(text)
            belonging.setContentAside(files, 7)
        self.assertEqual(files.namesAside(), [formatId(7), f"{formatId(7)}-1"])
        self.assertEqual({one["id"] for one in self.listed().values()}, {formatId(7)})


class NumberTests(SynchronousTestCase):
    """
    L{rescue.number}.
    """

    def test_number(self) -> None:
        """The name of a content begins with its message's."""
        self.assertEqual(rescue.number(formatId(7)), 7)
        self.assertEqual(rescue.number(f"{formatId(7)}-1"), 7)
        for name in ("spool-20260101T000000", "x", ""):
            with self.assertRaises(ValueError):
                rescue.number(name)
