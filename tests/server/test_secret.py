"""
What only this server knows.
"""

from __future__ import annotations

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.notes import Notes
from deferrals.server.secret import Secret
from deferrals.spool.memory import MemorySpool
from tests.workers.test_notes import Cluster


class SecretTests(SynchronousTestCase):
    """
    L{Secret}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)

    def secret(self) -> Secret:
        """
        That of a process that has just started.
        """
        notes = Notes(self.clock)
        self.successResultOf(notes.load(self.spool))
        return Secret(self.spool, notes)

    def loaded(self) -> bytes:
        secret = self.secret()
        self.successResultOf(secret.load())
        return self.successResultOf(secret.get())

    def test_restart(self) -> None:
        """It is the same after a restart, and another server's is another."""
        first = self.loaded()
        self.assertEqual(len(first), 32)
        self.assertEqual(self.loaded(), first)
        self.spool = MemorySpool(self.clock)
        self.assertNotEqual(self.loaded(), first)

    def test_waits(self) -> None:
        """Before it is known, it is waited for."""
        secret = self.secret()
        waiting, other = secret.get(), secret.get()
        other.addErrback(lambda _: None)
        other.cancel()
        self.assertNoResult(waiting)
        self.successResultOf(secret.load())
        self.assertEqual(self.successResultOf(waiting), self.successResultOf(secret.get()))

    def test_unreadable(self) -> None:
        """A note that is none is replaced; where notes cannot be had there is one all the same."""
        for value in ("x", "abcd"):
            for name in ("secret", '["secret", "server", "octets"]'):
                self.spool = MemorySpool(self.clock)
                self.spool.note(name, value, 60)
                self.assertEqual(len(self.loaded()), 32)
        self.spool = MemorySpool(self.clock)
        self.patch(self.spool, "notes", lambda: fail(OSError("no disk")))
        self.assertEqual(len(self.loaded()), 32)

    def test_before(self) -> None:
        """One that was made by a version for one process goes on."""
        value = bytes(range(32))
        self.spool.note("secret", value.hex(), 60)
        self.assertEqual(self.loaded(), value)

    def test_shared(self) -> None:
        """All processes have one, also those that were begun at the same time; and again later."""
        cluster = Cluster(3, kinds=("secret",), most=1)
        found: list[set[bytes]] = []
        for _ in range(2):
            made = [Secret(cluster.spools[n], cluster.notes[n]) for n in range(3)]
            for secret in made:
                secret.load()
            cluster.settle()
            found.append({self.successResultOf(secret.get()) for secret in made})
            cluster.startParent()
        self.assertEqual(len(found[0]), 1)
        self.assertEqual(found[0], found[1])
