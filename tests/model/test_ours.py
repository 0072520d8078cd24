"""
What only this server may say.
"""

from __future__ import annotations

import authres
from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ours import withoutOurs
from tests.work import linesRun

HOST = "mx.example.net"

#: Results that claim to be ours (RFC 8601 §2.2, §5).
CLAIMS = (
    b"Authentication-Results: mx.example.net; dkim=pass header.d=bank.example",
    b"authentication-RESULTS: MX.Example.NET; spf=pass",
    b"Authentication-Results:mx.example.net;none",
    b"Authentication-Results:\r\n mx.example.net;\r\n\tdkim=pass",
    b"Authentication-Results : mx.example.net 1; dkim=pass",
    b"Authentication-Results: (a (nested \\) one) (b) mx.example.net (c); dkim=pass",
    b"Authentication-Results: (mx.other.test)\r\n (more)\r\n\tmx.example.net/1; dkim=pass",
    b'Authentication-Results: "mx.example.net"; dkim=pass',
    b'Authentication-Results: (x)"mx\\.example.net" ; dkim=pass',
    b"Authentication-Results: mx.example.net.; dkim=pass",
    b"Authentication-Results: \r\n \r\n\tmx.example.net",
    # Whose these are cannot be told: a reader may find our name in them.
    b"Authentication-Results: (mx.example.net; dkim=pass",
    b'Authentication-Results: "mx.example.net; dkim=pass',
    b"Authentication-Results: =?utf-8?q?mx.example.net?=; dkim=pass",
    b"Authentication-Results: =?US-ASCII?B?bXguZXhhbXBsZS5uZXQ=?=; dkim=pass",
    b"Authentication-Results: mx.(x)example.net; dkim=pass",
    b"Authentication-Results: mx . example . net; dkim=pass",
    b"Authentication-Results: mx.\r\n example.net; dkim=pass",
    b'Authentication-Results: mx."example".net; dkim=pass',
    b"Authentication-Results: \x0bmx.example.net; dkim=pass",
    b"Authentication-Results: \xc2\xa0mx.example.net; dkim=pass",
    b"Authentication-Results: mx\xe2\x80\x8b.example.net\x00; dkim=pass",
)

OTHERS = (
    b"Authentication-Results: mx.example.net.evil.test; dkim=pass",
    b"Authentication-Results: amx.example.net; dkim=pass",
    b"Authentication-Results: (mx.example.net) other.test; dkim=pass",
    b'Authentication-Results: "other.test"; x=mx.example.net',
    b"Authentication-Results: ; dkim=pass",
    b"Authentication-Results:",
    b"Authentication-Results-Original: mx.example.net; dkim=pass",
    b"ARC-Authentication-Results: i=1; mx.example.net; dkim=pass",
    b"X-Return-Path: <a@b.test>",
    b"Deferrals: x",
    b"Subject: Return-Path: mx.example.net\r\n Delivered-To: x",
)

_BLANK = some.sampled_from([" ", "\t", "\r\n ", "(x)", "((y) z)", "(mx.other.test)", "(\\))"])
_PIECE = some.sampled_from(
    [
        *(HOST, HOST.upper(), "mx.", "example.net", '"', "\\", "(", ")", " ", "\t", ".", ";"),
        *("1", "/", "; dkim=pass", "x", "other.test", "=?utf-8?q?", "?="),
    ]
)


class OursTests(SynchronousTestCase):
    """
    L{withoutOurs}.
    """

    def test_claims(self) -> None:
        """Results with our name go, however they are written, and wherever they stand."""
        for claim in CLAIMS:
            for head, left in (
                (claim, b""),
                (claim + b"\r\nA: 1\r\n 2", b"A: 1\r\n 2"),
                (b"A: 1\r\n" + claim, b"A: 1"),
                (b"A: 1\r\n" + claim + b"\r\n" + claim + b"\r\nB: 2", b"A: 1\r\nB: 2"),
            ):
                for isFinal in (True, False):
                    self.assertEqual(withoutOurs(head, HOST, isFinal), left, head)

    @given(some.data())
    def test_shapes(self, data: some.DataObject) -> None:
        """Our name, with whatever a grammar or a careless reader leaves out around it."""
        draw = data.draw
        name = "".join(draw(some.sampled_from([c, c.upper()])) for c in HOST)
        if draw(some.booleans()):
            name = '"' + "".join(draw(some.sampled_from([c, "\\" + c])) for c in name) + '"'
        name += draw(some.sampled_from(["", "."])) if not name.endswith('"') else ""
        version = draw(some.sampled_from(["", " 1", "/1", " 7", "\t1 (x)"]))
        field = "".join(
            (
                draw(some.sampled_from(["Authentication-Results", "AUTHENTICATION-results"])),
                draw(some.sampled_from([":", " :", "\t:"])),
                *draw(some.lists(_BLANK, max_size=4)),
                name,
                *draw(some.lists(_BLANK, max_size=4)),
                version,
                draw(some.sampled_from(["", ";", "; dmarc=pass", ";\r\n dkim=pass"])),
            )
        ).encode()
        self.assertEqual(
            withoutOurs(b"A: 1\r\n" + field + b"\r\nB: 2", HOST, True), b"A: 1\r\nB: 2"
        )

    @given(some.lists(_PIECE, max_size=8).map("".join))
    def test_stranger(self, value: str) -> None:
        """What stays is nobody's that another program takes for ours."""
        head = b"Authentication-Results: " + value.encode()
        if withoutOurs(head, HOST, True) == head:
            try:
                found = authres.AuthenticationResultsHeader.parse_value(value).authserv_id
            except (authres.AuthResError, RecursionError):
                return
            self.assertNotEqual(str(found).rstrip(".").lower(), HOST, value)

    def test_others(self) -> None:
        """What others say stays: the same octets, the same object."""
        for field in OTHERS:
            head = b"A: 1\r\n" + field + b"\r\nB: 2"
            self.assertIs(withoutOurs(head, HOST, True), head)

    def test_names(self) -> None:
        """A name in UTF-8 is the one that it stands for (RFC 8601 §5)."""
        field = "Authentication-Results: b\u00fccher.example; dkim=pass".encode()
        self.assertEqual(withoutOurs(field, "xn--bcher-kva.example", True), b"")

    def test_final(self) -> None:
        """In a mailbox, ours are Return-Path and Delivered-To; on the way they stay."""
        head = b"RETURN-PATH : <x@y.test>\r\nA: 1\r\nDelivered-To: a\r\n more\r\ndelivered-to: c"
        self.assertEqual(withoutOurs(head, HOST, True), b"A: 1")
        self.assertIs(withoutOurs(head, HOST, False), head)

    def test_marks(self) -> None:
        """Our marks are ours everywhere."""
        head = b"X-Deferrals-Refused: no\r\nA: 1\r\ndeferrals-unscanned: clamav\r\n x\r\nB: 2"
        for isFinal in (True, False):
            self.assertEqual(withoutOurs(head, HOST, isFinal), b"A: 1\r\nB: 2")

    def test_bare(self) -> None:
        """A field behind a bare CR or LF, which some reader sees as one, goes too."""
        for end in (b"\n", b"\r"):
            head = b"A: 1" + end + b"Return-Path: <x>" + end + b" y" + end + b"B: 2"
            self.assertEqual(withoutOurs(head, HOST, True), b"A: 1" + end + b"B: 2")

    def test_linear(self) -> None:
        """Four times the octets are four times the work."""
        for piece in (b"\r\n x", b"(", b"\\", b"(x)", b'"', b"\r", b"\r\nDelivered-To: x"):
            for start in (b"Return-Path:", b"Authentication-Results: ", b"A: "):
                few = linesRun(withoutOurs, start + piece * 1000, HOST, True)
                many = linesRun(withoutOurs, start + piece * 4000, HOST, True)
                self.assertLess(many, 6 * few + 100, (start, piece))
