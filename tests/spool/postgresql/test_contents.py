"""
Large contents on this machine.
"""

from __future__ import annotations

import hashlib
import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.message import Message
from deferrals.spool.postgresql import contents
from deferrals.spool.postgresql.contents import PIECE_OCTETS, Contents


class ContentsTests(SynchronousTestCase):
    """
    L{Contents}.
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        self.contents = Contents(self.directory)
        self.contents.take()
        self.addCleanup(self.contents.leave)

    def test_take(self) -> None:
        """One process has it at a time; what the process before had there is gone."""
        with self.assertRaises(SpoolError):
            Contents(self.directory).take()
        with open(self.contents.path(1), "w"):
            pass
        self.contents.leave()
        self.assertFalse(self.contents.isTaken)
        self.contents.take()
        self.assertEqual(os.listdir(self.directory), ["lock"])
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)

    def test_unmade(self) -> None:
        """A directory that cannot be made is an error that says so."""
        with open("file", "w"):
            pass
        with self.assertRaisesRegex(SpoolError, "cannot make the spool"):
            Contents(os.path.abspath("file/contents")).take()

    def test_predecessor(self) -> None:
        """It is known who the process before was, in that database and no other."""
        self.assertIsNone(self.contents.predecessor("a"))
        self.contents.remember("a", 7)
        self.contents.remember("a", 8)
        self.assertEqual(self.contents.predecessor("a"), 8)
        self.assertIsNone(self.contents.predecessor("b"))
        with open(os.path.join(self.directory, "owner"), "w") as file:
            file.write("a ?")
        self.assertIsNone(self.contents.predecessor("a"))

    def test_pieces(self) -> None:
        """A content goes in pieces, and comes back whole; a wrong one is found out."""
        path, copy = self.contents.path(1), self.contents.path(2)
        content = b"0123456789abcdef" * (PIECE_OCTETS // 16) + b"the rest"
        with open(path, "wb") as file:
            file.write(content)
        pieces = [contents.piece(path, seq) for seq in range(3)]
        self.assertEqual([len(piece) for piece in pieces], [PIECE_OCTETS, 8, 0])
        message = Message(len(content), hashlib.sha256(content).digest(), None, copy, b"", False)
        self.assertIn("cannot be read", contents.wrongOf(message))
        contents.append(copy, pieces[0])
        self.assertIn("octets", contents.wrongOf(message))
        contents.append(copy, pieces[1])
        self.assertEqual(contents.wrongOf(message), "")
        self.assertEqual(os.stat(copy).st_mode & 0o777, 0o600)
        self.contents.remove(copy)
        self.contents.remove(copy)
        self.assertFalse(os.path.exists(copy))
