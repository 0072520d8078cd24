"""
Changes of a server of several processes under mixed mail: their number, in both
directions, and their configuration.  Nothing is killed, so nothing may come twice.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.stage import GTUBE
from tests.crash.books import closed, isRight
from tests.crash.rig import SENDERS
from tests.crash.traffic import PICKY, Client, Sender
from tests.crash.world import ServerWorld
from tests.integration.support import PATIENCE, until
from tests.rigs import rig

#: How many workers there are, one after the other.
NUMBERS = (2, 4, 1, 3)

#: How long each of them runs under mail, in seconds.
SECONDS = rig(2, 5)


class ChangesCase(SynchronousTestCase):
    """
    Senders, and a server of several processes.
    """

    def setUp(self) -> None:
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        self.world = world = ServerWorld(directory, 20261129, workers=NUMBERS[0])
        self.addCleanup(world.close)
        self.senders = [Sender(world.books, world.ports, seed) for seed in range(SENDERS)]

    def begin(self) -> Any:
        before = self.world.said("worker [0-9]+ is running")
        server = self.world.start()
        self.addCleanup(server.kill)
        self.world.greets()
        wanted = before + (self.world.workers if self.world.workers > 1 else 0)
        until(lambda: self.world.said("worker [0-9]+ is running") == wanted, "all run")
        return server

    def over(self, server: Any) -> None:
        """
        No more mail: what was taken arrives, once.
        """
        for sender in self.senders:
            sender.stopping = True
        for sender in self.senders:
            sender.join(PATIENCE)
        self.world.queue("retry")  # the next hop was away, and is left alone for a while
        self.world.settle()
        time.sleep(1)
        self.world.stop(server)
        counts = closed(self.world.books, self.world.arrived(), [])
        print(counts)
        self.assertTrue(isRight(counts) and counts["accepted"], counts)
        self.assertEqual((counts["duplicates"], self.world.left()), (0, 0), counts)


class NumberTests(ChangesCase):
    """
    Another number of workers at each start.
    """

    def test_number(self) -> None:
        """More or fewer, with mail in each queue that cannot be delivered for a while."""
        for sender in self.senders:
            sender.start()
        for number in NUMBERS:
            self.world.renumber(number)
            server = self.begin()
            self.world.hop.isDown = True
            time.sleep(SECONDS)
            if number != NUMBERS[-1]:
                self.world.stop(server)
            self.world.hop.isDown = False
        self.world.queue("retry")  # the next hop was away, and is left alone for a while
        spools = os.path.join(self.world.directory, "state", "workers")
        until(lambda: sorted(os.listdir(spools)) == ["1", "2"], "the others are gone")
        self.over(server)


class ReloadTests(ChangesCase):
    """
    Another configuration.
    """

    def reload(self, server: Any, text: str, word: str) -> None:
        """
        @param text: the configuration.
        @param word: what the log says then.
        """
        with open(self.world.path, "w", encoding="utf-8") as file:
            file.write(text)
        before = self.world.said(word)
        server.send_signal(signal.SIGHUP)
        until(lambda: self.world.said(word) > before, word)

    def answers(self) -> set[str]:
        """
        What a recipient says to spam, over so many connections that both workers are met.
        """
        found = set()
        for _ in range(20):
            client = Client(self.world.ports["plain"])
            for line in ("MAIL FROM:<>", f"RCPT TO:<{PICKY}>", "DATA"):
                client.say(line)
            client.file.write(f"Subject: x\r\n\r\n{GTUBE}\r\n.\r\n".encode())
            client.file.flush()
            found.add(client.reply().partition(" (id")[0])
            client.close()
        return found

    def test_oneUnfit(self) -> None:
        """Where one worker cannot make what the configuration says, none changes to it."""
        server = self.begin()
        for sender in self.senders:
            sender.start()
        (before,) = self.answers()
        text = self.world.config.replace("spam is not wanted", "spam is refused")
        unfit = text.replace('use = "copies" }', 'use = "copies", unfit = 1 }')
        for _ in range(rig(2, 5)):
            self.reload(server, unfit, "the old one stays: worker 1: ")
            self.assertEqual(self.answers(), {before})
        self.reload(server, text, "configuration reloaded")
        until(lambda: self.answers() == {before.replace("not wanted", "refused")}, "the new one")
        self.over(server)
