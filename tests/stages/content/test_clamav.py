"""
The content stage C{clamav}, without clamd.
"""

from __future__ import annotations

import struct

from deferrals.errors import StageError
from deferrals.model.verdict import ACCEPT, Accept, Marks, Refuse
from deferrals.stages.content import clamav
from deferrals.testing import (
    ContentStageContract,
    makeMessage,
)
from tests.streams import FailureTests, StreamCase


class ClamAVTests(StreamCase, FailureTests, ContentStageContract):
    """
    L{clamav.ClamAVStage}.
    """

    kind = clamav.ClamAVStage
    settings = clamav.ClamAVSettings
    kindName = "clamav"
    good = b"stream: OK\0"

    def test_request(self) -> None:
        """INSTREAM: the message in chunks with their lengths, and a chunk of none."""
        content = b"Subject: x\r\n\r\n" + b"y" * 200_000
        self.verdict(self.makeStage(), message=makeMessage(content))
        (request,) = self.endpoint.requests
        self.assertTrue(request.startswith(b"zINSTREAM\0"))
        rest, found = request[10:], b""
        while True:
            (length,) = struct.unpack(">I", rest[:4])
            if not length:
                break
            found += rest[4 : 4 + length]
            rest = rest[4 + length :]
        self.assertEqual(rest, b"\0\0\0\0")
        self.assertTrue(found.startswith(b"Return-Path: <"))
        self.assertTrue(found.endswith(b"\r\n" + content))

    def test_verdicts(self) -> None:
        """A virus is refused or marked, as the policy says; its name is told."""
        self.endpoint.answer = b"stream: Win.Test.X FOUND\0"
        verdict = self.verdict(self.makeStage())
        self.assertEqual(str(verdict.reply), "550 5.7.1 refused: it carries a virus (Win.Test.X)")
        verdict = self.verdict(self.makeStage(action="mark", subject_tag="[virus] "))
        wanted = Marks((("X-Virus", "Win.Test.X"),), ("X-Virus",), "[virus] ", True)
        self.assertEqual(verdict, Accept(wanted))

    def test_classes(self) -> None:
        """Names of a class mean something else; a limit never does."""
        classes = (
            clamav.VirusClass("Heuristics.Encrypted.Zip", "ignore"),
            clamav.VirusClass("Heuristics.*", "mark"),
            clamav.VirusClass("Test.[AB]", "ignore"),
        )
        for name, wanted in (
            ("Heuristics.Encrypted.Zip", "ignore"),
            ("Heuristics.Encrypted.RAR", "mark"),
            ("heuristics.Encrypted.RAR", "refuse"),
            ("Test.A", "ignore"),
            ("Test.C", "refuse"),
            ("Heuristics.Limits.Exceeded.MaxFileSize", "unscanned"),
        ):
            stage = self.makeStage(classes=classes)
            self.endpoint.answer = f"stream: {name} FOUND\0".encode()
            verdict = self.verdict(stage)
            if isinstance(verdict, Refuse):
                found = "refuse"
            elif verdict == ACCEPT:
                found = "ignore"
            else:
                found = {"X-Virus": "mark", "Deferrals-Unscanned": "unscanned"}[
                    verdict.marks.headers[0][0]
                ]
            self.assertEqual(found, wanted, name)

    def test_parse(self) -> None:
        """Both endings, the size limit, and what is no answer."""
        for answer, scan in (
            (b"stream: OK\n", clamav.ClamdScan()),
            (b"stream: A.b FOUND\n", clamav.ClamdScan("A.b")),
            (b"stream: A\r\n250 b FOUND\0", clamav.ClamdScan("A  250 b")),
            (b"INSTREAM size limit exceeded. ERROR\0", clamav.ClamdScan(tooLarge=True)),
            (
                b"stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0",
                clamav.ClamdScan(tooLarge=True),
            ),
        ):
            self.assertEqual(clamav.parseAnswer(answer), scan)
        for answer in (
            b"",
            b"stream: Can't open ERROR\0",
            b"COMMAND READ TIMED OUT\n",
            b"UNKNOWN COMMAND\0",
            b"\xff\0",
        ):
            self.assertRaises(StageError, clamav.parseAnswer, answer)

    def test_tooLarge(self) -> None:
        """What is larger than clamd takes is accepted, marked or refused."""
        self.endpoint.answer = b"INSTREAM size limit exceeded. ERROR\0"
        self.assertEqual(self.verdict(self.makeStage(too_large="accept")), ACCEPT)
        self.assertEqual(self.verdict(self.makeStage(too_large="refuse")).reply.code, 552)
        self.assertEqual(
            self.verdict(self.makeStage()),
            Accept(Marks((("Deferrals-Unscanned", "clamav (too large)"),))),
        )

    def test_oneScan(self) -> None:
        """One scan per message, for all policies with this clamd."""
        message = makeMessage()
        stages = [self.makeStage(), self.makeStage(action="mark"), self.makeStage()]
        for stage in stages:
            self.assertEqual(self.verdict(stage, message=message), ACCEPT)
        self.assertEqual(len(self.endpoint.requests), 1)
        self.assertEqual(self.services.status.counted("scans", "clamav"), 1)
