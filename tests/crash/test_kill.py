"""
kill -9, again and again (the longer run: C{python -m tests.crash.rig}); and whether
that would see what it is there for.
"""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.books import NOTICE, Arrived, Books, closed
from tests.crash.rig import SABOTAGE_KILLS, isGood, isWorth, run, screams
from tests.crash.sabotage import SABOTAGES
from tests.crash.traffic import AnsweredTwice, Client
from tests.requirements import requirement
from tests.rigs import rig

KILLS = rig(6, 20)

#: Of one worker, several, their parent, all.
WORKER_KILLS = rig(3, 8)

#: So often one is stopped, and wakes.
SLEEPS = rig(3, 8)

#: A sabotage that the count of every copy shows, and one that a kill at the right
#: instant does.
SAMPLE = ["no-removal", "reply-before-commit"][: rig(1, 2)]

SAMPLE_KILLS = rig(3, SABOTAGE_KILLS)


class KillTests(SynchronousTestCase):
    """
    The process dies at random instants.
    """

    @requirement("D-20")
    @requirement("D-23")
    def test_kill(self) -> None:
        """What a sender was told stays true, whatever dies, at any instant."""
        counts = run(KILLS, seed=20261123)
        print(json.dumps(counts))
        self.assertTrue(isGood(counts), counts)

    def test_sleepers(self) -> None:
        """A worker that is stopped and wakes loses nothing, and repeats nothing."""
        counts = run(0, seed=20261130, workers=2, sleeps=SLEEPS)
        print(json.dumps(counts))
        self.assertTrue(isGood(counts), counts)
        self.assertEqual((counts["kills"], counts["sleeps"]), (0, SLEEPS))

    def test_workers(self) -> None:
        """Likewise where several processes take mail: one of them dies, or several, or all."""
        counts = run(WORKER_KILLS, seed=20261129, workers=2)
        print(json.dumps(counts))
        self.assertTrue(isGood(counts), counts)


class SabotageTests(SynchronousTestCase):
    """
    The rig sees a server that breaks its promises (all of them:
    C{python -m tests.crash.rig --sabotage all}).
    """

    def test_seen(self) -> None:
        """It screams at each."""
        for name in SAMPLE:
            self.assertIn(name, SABOTAGES)
            counts = run(SAMPLE_KILLS, seed=20261129, sabotage=name)
            print(name, json.dumps(screams(counts)))
            self.assertTrue(screams(counts), f"{name}: {counts}")


class WorthTests(SynchronousTestCase):
    """
    When a run has shown something.
    """

    def test_worth(self) -> None:
        """It needs more accepted mail than kills, and most of the kinds of mail."""
        self.assertTrue(isWorth(accepted=21, kills=20, kinds=8, among=10))
        self.assertFalse(isWorth(accepted=20, kills=20, kinds=8, among=10))
        self.assertFalse(isWorth(accepted=21, kills=20, kinds=7, among=10))


class ClientTests(SynchronousTestCase):
    """
    What the senders of the rig see.
    """

    def client(self) -> tuple[Client, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as port:
            number: int = port.getsockname()[1]
            with ThreadPoolExecutor(1) as pool:
                making = pool.submit(Client, number)
                server, _ = port.accept()
                server.sendall(b"220 here\r\n")
                server.recv(100)
                server.sendall(b"250 hello\r\n")
                client = making.result()
        self.addCleanup(server.close)
        self.addCleanup(client.close)
        return client, server

    def test_answeredTwice(self) -> None:
        """A second answer to one command is seen, be it in the same packet."""
        client, server = self.client()
        server.sendall(b"250 one\r\n250 two\r\n")
        self.assertEqual(client.reply(), "250 one")
        self.assertRaises(AnsweredTwice, client.say, "NOOP")

    def test_leave(self) -> None:
        """That it is time to go is no second answer."""
        client, server = self.client()
        server.sendall(b"250 one\r\n421 4.3.2 bye\r\n")
        self.assertEqual(client.reply(), "250 one")
        self.assertRaises(EOFError, client.say, "NOOP")


class ClosedTests(SynchronousTestCase):
    """
    The books by themselves.
    """

    def setUp(self) -> None:
        self.books, self.arrived = Books(), Arrived()
        self.number = self.books.next(["a@x.example", "gone-x@x.example"], True)
        self.books.note(self.number, "two", {"a@x.example": "250 ok", "gone-x@x.example": "250 ok"})

    def come(self, *times: float, to: str = "a@x.example", isWhole: bool = True) -> None:
        for at in times:
            self.arrived.add((self.number, to), at, isWhole)

    def wrong(self, *kills: float) -> dict[str, int]:
        return screams(closed(self.books, self.arrived, kills))

    def test_right(self) -> None:
        """Mail and a notice have come, each once."""
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.assertEqual(self.wrong(), {})

    def test_lost(self) -> None:
        """What has not come, be it mail or a notice."""
        self.assertEqual(self.wrong(), {"lost": 2})

    def test_torn(self) -> None:
        """A copy that is not whole."""
        self.come(1.0, isWhole=False)
        self.come(2.0, to=NOTICE)
        self.assertEqual(self.wrong(), {"torn": 1})

    def test_duplicates(self) -> None:
        """A second copy needs a kill behind the first, soon, and before the second."""
        self.come(10.0, 20.0)
        self.come(2.0, to=NOTICE)
        self.assertEqual(self.wrong(11.0), {})
        for kills in ([], [9.0], [15.0], [21.0]):
            self.assertEqual(self.wrong(*kills), {"unexplained duplicates": 1}, kills)

    def test_thrice(self) -> None:
        """A third copy needs a kill of its own."""
        self.come(10.0, 12.0, 14.0)
        self.come(2.0, to=NOTICE)
        self.assertEqual(self.wrong(11.0), {"unexplained duplicates": 1})
        self.assertEqual(self.wrong(11.0, 13.0), {})

    def test_receipt(self) -> None:
        """Who wants to know of a delivery is told."""
        number = self.books.next(["b@x.example"], True, True)
        self.books.note(number, "one", {"b@x.example": "250 ok"})
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.arrived.add((number, "b@x.example"), 3.0, True)
        self.assertEqual(self.wrong(), {"lost": 1})
        self.arrived.add((number, NOTICE), 3.0, True)
        self.assertEqual(self.wrong(), {})

    def test_handedBack(self) -> None:
        """A notice about a recipient that was handed back to its sender."""
        number = self.books.next(["gone-x@x.example"], True)
        self.books.note(number, "one", {"gone-x@x.example": "550 gone"})
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.arrived.add((number, NOTICE), 3.0, True)
        self.assertEqual(self.wrong(), {"untrue notices": 1})

    def test_unwritten(self) -> None:
        """What was handed back while that could not be written, its recipient may have."""
        for recipient in ("b@x.example", "gone-x@x.example"):
            number = self.books.next([recipient], True)
            said = {recipient: "450 later"}
            self.books.note(number, "one", said, isTried=True)
            self.arrived.add((number, NOTICE), 3.0, True)
            self.arrived.add((number, recipient), 3.0, True)
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.assertEqual(self.wrong(), {"to refusers": 2, "untrue notices": 2})
        counts = closed(self.books, self.arrived, [], isAway=lambda at: at > 0)
        self.assertEqual(screams(counts), {})
        self.assertEqual(counts["handed back, unwritten"], 4)

    def test_answeredTwice(self) -> None:
        """A sender was told something that it had not asked for."""
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.books.twice.append((self.number, "250 ok"))
        self.assertEqual(self.wrong(), {"answered twice": 1})

    def test_refusers(self) -> None:
        """Who refused has it; and a notice about a recipient that did not fail."""
        number = self.books.next(["b@x.example"], True)
        self.books.note(number, "one", {"b@x.example": "550 no"})
        self.come(1.0)
        self.come(2.0, to=NOTICE)
        self.arrived.add((number, "b@x.example"), 3.0, True)
        self.arrived.add((number, NOTICE), 3.0, True)
        self.assertEqual(self.wrong(), {"to refusers": 1, "untrue notices": 1})
