"""
What is remembered of messages whose recipients differ.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.mixed import Memory, Remembered, State, stableSender
from deferrals.smtp.server.mixed import fingerprintOf
from deferrals.testing import makeMessage


class SenderTests(SynchronousTestCase):
    """
    L{stableSender}.
    """

    def test_stable(self) -> None:
        """BATV, SRS and VERP forms of one sender are one; other senders are others."""
        for texts in (
            ["user@example.com", "USER@EXAMPLE.com", "prvs=4012ab34cd=user@example.com"],
            [
                "SRS0=abcd=XY=example.com=user@forward.example",
                "srs0=zzzz=QQ=example.com=user@other.example",
            ],
            [
                "list-bounce+123456-a=b.example@lists.example",
                "list-bounce+999-c=d.example@lists.example",
            ],
            ["bounce-00112233@news.example", "bounce-99887766@news.example"],
        ):
            self.assertEqual(len({stableSender(Mailbox.parse(text)) for text in texts}), 1, texts)
        self.assertNotEqual(
            stableSender(Mailbox.parse("a@example.com")),
            stableSender(Mailbox.parse("b@example.com")),
        )
        self.assertEqual(stableSender(None), "")
        self.assertEqual(
            stableSender(Mailbox.parse("SRS0=abcd=XY=example.com=user@forward.example")),
            "user@example.com",
        )


class FingerprintTests(SynchronousTestCase):
    """
    L{fingerprintOf}.
    """

    def test_tolerant(self) -> None:
        """Added trace fields change nothing; another body or Message-ID is another message."""
        first = makeMessage(b"Message-ID: <1@x>\r\nSubject: a\r\n\r\nbody\r\n")
        traced = makeMessage(b"Received: by x\r\nMessage-Id: <1@x>\r\nSubject: a\r\n\r\nbody\r\n")
        other = makeMessage(b"Message-ID: <1@x>\r\nSubject: a\r\n\r\nBody\r\n")
        another = makeMessage(b"Message-ID: <2@x>\r\nSubject: a\r\n\r\nbody\r\n")
        self.assertEqual(fingerprintOf(first), fingerprintOf(traced))
        self.assertEqual(len({fingerprintOf(m) for m in (first, other, another)}), 3)


class MemoryTests(SynchronousTestCase):
    """
    L{Memory}.
    """

    def setUp(self) -> None:
        self.saved: dict[str, Remembered] = {}
        self.memory = Memory(self.save, capacity=3, lifetimeSeconds=100)

    def save(self, fingerprint: str, remembered: Remembered | None) -> None:
        if remembered is None:
            self.saved.pop(fingerprint)
        else:
            self.saved[fingerprint] = remembered

    def test_holds(self) -> None:
        """A refuser waits while others may still take the message, not longer."""
        self.memory.learn("f", "s", ["a"], ["r"], ["u"], 0)
        self.assertEqual(self.memory.find("s", "r", 1), ["f"])
        self.assertTrue(self.memory.holds("f", "r"))
        self.assertFalse(self.memory.holds("f", "a"))
        self.assertIsNone(self.memory.answered("f", ["a"]))
        self.assertTrue(self.memory.holds("f", "r"))
        self.memory.learn("f", "s", [], ["u"], [], 2)
        self.assertFalse(self.memory.holds("f", "r"))
        self.assertTrue(self.memory.refuses("f", "u"))
        done = self.memory.answered("f", ["r", "u"])
        assert done is not None
        self.assertEqual((done.created, done.times), (0, 2))
        self.assertEqual((len(self.memory), self.saved), (0, {}))

    def test_otherSender(self) -> None:
        """No other sender's mail is concerned."""
        self.memory.learn("f", "s", ["a"], ["r"], [], 0)
        self.assertEqual(self.memory.find("t", "r", 1), [])
        self.assertEqual(self.memory.find("s", "x", 1), [])

    def test_stuck(self) -> None:
        """It counts how often it was asked for, and how often nothing was learnt."""
        for times, stuck in ((1, 0), (2, 1), (3, 2)):
            found = self.memory.learn("f", "s", ["a"], ["r"], [], 0)
            self.assertEqual((found.times, found.stuck), (times, stuck))
        found = self.memory.learn("f", "s", [], ["r", "q"], [], 0)
        self.assertEqual((found.times, found.stuck), (4, 2))

    def test_expires(self) -> None:
        """What is remembered is forgotten in time, whoever comes."""
        self.memory.learn("f", "s", ["a"], ["r"], [], 0)
        self.memory.learn("f", "s", ["a"], ["r"], [], 99)
        self.assertEqual(self.memory.find("s", "r", 100), [])
        self.assertEqual((len(self.memory), self.saved), (0, {}))

    def test_expiredUnseen(self) -> None:
        """What comes again after that, under another name, is new; the old is gone."""
        self.memory.learn("f", "s", ["a"], ["r"], [], 0)
        found = self.memory.learn("f", "t", ["a"], ["r"], [], 200)
        self.assertEqual((found.times, found.created), (1, 200))
        self.memory.answered("f", ["a", "r"])
        self.assertEqual(self.memory.find("s", "r", 201), [])
        self.assertEqual(self.memory.find("t", "r", 201), [])

    def test_capacity(self) -> None:
        """There is a limit; the oldest goes first."""
        for number in range(5):
            self.memory.learn(f"f{number}", "s", ["a"], ["r"], [], number)
        self.assertEqual(sorted(self.saved), ["f2", "f3", "f4"])
        self.assertEqual(self.memory.find("s", "a", 5), ["f2", "f3", "f4"])

    def test_saved(self) -> None:
        """What is remembered survives a restart."""
        self.memory.learn("f", "s", ["a"], ["r"], ["u"], 0)
        data = self.saved["f"].toJSON()
        again = Memory()
        again.load("f", Remembered.fromJSON(data))
        self.assertTrue(again.holds("f", "r"))
        self.assertEqual(again.find("s", "u", 1), ["f"])
        self.assertEqual(Remembered.fromJSON(data).members["u"], State.UNKNOWN)

    def test_waits(self) -> None:
        """
        Who would refuse waits for the others of the message; without them, only
        so often, since it may be another message, and somebody else's.
        """
        self.memory.learn("f", "s", ["a"], ["r", "q"], [], 0)
        for _ in range(3):  # with one for whom it waits, before it or behind it
            waiting: dict[str, bool] = {}
            self.assertTrue(self.waits("r", waiting))
            self.assertFalse(self.waits("a", waiting))
            self.assertTrue(self.waits("q", waiting))
            waiting = {}
            self.assertFalse(self.waits("a", waiting))
            self.assertTrue(self.waits("r", waiting))
        for _ in range(2):
            waiting = {}
            self.assertTrue(self.waits("r", waiting))
            self.assertTrue(self.waits("q", waiting), "both are one message's")
        self.assertFalse(self.waits("r", {}))
        self.memory.learn("g", "s", ["a"], ["r"], [], 0)
        self.assertFalse(self.waits("r", {}), "another one, made up to hold it longer")
        waiting = {}
        self.assertFalse(self.waits("a", waiting))
        self.assertTrue(self.waits("r", waiting), "with the others it waits all the same")

    def waits(self, key: str, waiting: dict[str, bool]) -> bool:
        return self.memory.waits(self.memory.find("s", key, 1), key, waiting, 2)

    def test_eachForTheOther(self) -> None:
        """Two messages do not make their recipients wait for one another."""
        self.memory.learn("f", "s", [], ["r"], ["q"], 0)
        self.memory.learn("g", "s", [], ["q"], ["r"], 0)
        for first, second in ("rq", "qr"):
            waiting: dict[str, bool] = {}
            self.assertTrue(self.waits(first, waiting))
            self.assertFalse(self.waits(second, waiting))

    def test_brought(self) -> None:
        """A recipient that has waited often enough waits again, when it was this message."""
        self.memory.learn("f", "s", [], ["r"], ["q"], 0)
        self.assertEqual([self.waits("r", {}) for _ in range(3)], [True, True, False])
        self.memory.learn("f", "s", [], ["r"], ["q"], 0)
        self.assertTrue(self.waits("r", {}))

    def test_parts(self) -> None:
        """
        A sender that brings a message in several transactions at once, each
        for some of its recipients, has not come back.
        """
        for number in range(5):
            found = self.memory.learn("f", "s", [f"a{number}"], [f"r{number}"], [], 0)
        self.assertEqual((found.times, found.stuck), (1, 0))
        self.assertEqual(self.memory.learn("f", "s", ["a1"], ["r1"], [], 0).times, 2)

    def test_bounds(self) -> None:
        """
        There is a limit to the recipients of all messages, and to the messages
        of one sender for one recipient: RCPT TO looks at each of them.
        """
        memory = Memory(self.save, capacity=1000, lifetimeSeconds=100, members=50)
        for number in range(10):
            keys = [f"r{number}-{place}" for place in range(10)]
            memory.learn(f"f{number}", "s", [], keys, [], 0)
        self.assertEqual(sorted(self.saved), ["f5", "f6", "f7", "f8", "f9"])
        memory.answered("f9", keys[:5])
        memory.learn("one", "s", ["a"], ["b", "c", "d", "e"], [], 0)
        self.assertEqual(len(memory), 6)
        memory = Memory(self.save, lifetimeSeconds=100)
        for number in range(1000):
            memory.learn(f"f{number}", "s", ["a"], ["r"], [], 0)
        self.assertEqual(len(memory.find("s", "r", 1)), 20)
        for number in range(1000):
            memory.answered(f"f{number}", ["a", "r"])
        self.assertEqual((len(memory), memory.find("s", "r", 1)), (0, []))

    def test_loadedTwice(self) -> None:
        """What was learnt before the notes were read stays."""
        self.memory.learn("f", "s", ["a"], ["r"], [], 0)
        self.memory.load("f", Remembered("s", {"r": State.UNKNOWN}, 0, 100))
        self.assertTrue(self.memory.holds("f", "r"))
        self.memory.answered("f", ["a", "r"])
        self.assertEqual(self.memory.find("s", "r", 1), [])

    def test_senderChanges(self) -> None:
        """A message that comes back under another return path is found under both names once."""
        self.memory.learn("f", "s", ["a"], ["r"], [], 0)
        self.memory.learn("f", "t", ["a"], ["r"], [], 1)
        self.assertEqual(self.memory.find("s", "r", 2), [])
        self.assertEqual(self.memory.find("t", "r", 2), ["f"])
