"""
What only this server knows.
"""

from __future__ import annotations

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.secret import Secret
from deferrals.spool.memory import MemorySpool


class SecretTests(SynchronousTestCase):
    """
    L{Secret}.
    """

    def setUp(self) -> None:
        self.spool = MemorySpool(Clock())

    def loaded(self) -> bytes:
        secret = Secret(self.spool)
        self.successResultOf(secret.load())
        return self.successResultOf(secret.get())

    def test_restart(self) -> None:
        """It is the same after a restart, and another server's is another."""
        first = self.loaded()
        self.assertEqual(len(first), 32)
        self.assertEqual(self.loaded(), first)
        self.spool = MemorySpool(Clock())
        self.assertNotEqual(self.loaded(), first)

    def test_waits(self) -> None:
        """Before it is known, it is waited for."""
        secret = Secret(self.spool)
        waiting, other = secret.get(), secret.get()
        other.addErrback(lambda _: None)
        other.cancel()
        self.assertNoResult(waiting)
        self.successResultOf(secret.load())
        self.assertEqual(self.successResultOf(waiting), self.successResultOf(secret.get()))

    def test_unreadable(self) -> None:
        """A note that is none is replaced; where notes cannot be had there is one all the same."""
        for value in ("x", "abcd"):
            self.spool.note("secret", value, 60)
            self.assertEqual(len(self.loaded()), 32)
        self.patch(self.spool, "notes", lambda: fail(OSError("no disk")))
        self.assertEqual(len(self.loaded()), 32)
