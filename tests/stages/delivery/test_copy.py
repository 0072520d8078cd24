"""
The copies that deliveries hand over.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import NO_MARKS, Marks
from deferrals.stages.delivery.copy import Copy, headOf
from deferrals.testing.values import makeMessage

HOST = "mx.example.net"


def makeCopy(content: bytes, marks: Marks) -> Copy:
    """
    @return: a copy into a mailbox, with one trace field.
    """
    message = makeMessage(content)
    return Copy(message, b"Trace: 1\r\n", marks, headOf(message, HOST, True))


class CopyTests(SynchronousTestCase):
    """
    L{Copy}.
    """

    def test_all(self) -> None:
        """Size and octets agree, and a body without a header is not taken for one."""
        for content in (
            b"",
            b"\r\nbody\r\n",
            b"A: 1\r\n\r\nbody\r\n",
            b"A: 1\r\n",
            b"no field\r\n",
            b"Return-Path: <x>\r\n\r\nbody\r\n",
            b"Return-Path: <x>\r\n",
            b"Return-Path: <x>",
            b"A: 1\r\nDelivered-To: x\r\n y\r\n\r\nbody\r\n",
        ):
            for marks in (NO_MARKS, Marks((("X", "1"),)), Marks(subjectPrefix="[x] ")):
                copy = makeCopy(content, marks)
                octets = b"".join(copy.chunks())
                self.assertEqual(len(octets), copy.size)
                self.assertTrue(octets.startswith(b"Trace: 1\r\n"))
                self.assertFalse(re.search(rb"Return-Path|Delivered-To|\r\n y", octets), octets)
                if b"body" in content:
                    self.assertTrue(re.search(rb"\r\n\r\nbody\r\n$", octets), octets)

    def test_once(self) -> None:
        """All copies of a message share what its header section was taken apart to."""
        message = makeMessage(b"A: 1\r\nB: 2\r\n\r\nbody\r\n")
        heads = [headOf(message, HOST, True) for _ in range(2)]
        self.assertIs(heads[0], heads[1])
        self.assertIs(message.header, message.header)
        first, second = (heads[0].marked(Marks((("X", x),), ("a",))) for x in "12")
        self.assertIs(first, second)
