"""
What is signed, and what DNS says of the keys.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.dkim import (
    MOST_ALIKE,
    BodyHash,
    Field,
    SigningSettings,
    authors,
    fieldsIn,
    mayBeSigned,
    namesToSign,
    recordOf,
    recordProblem,
    zoneLine,
)
from deferrals.model.envelope import Client
from deferrals.model.settings import BadSetting
from deferrals.testing import makeEnvelope


class SettingsTests(SynchronousTestCase):
    """
    L{SigningSettings}.
    """

    def refused(self, **changes: Any) -> str:
        given: dict[str, Any] = {"domain": "example.net", "selector": "s", "key": "k", **changes}
        error = self.assertRaises(BadSetting, SigningSettings, **given)
        return f"{error.key}: {error}"

    def test_place(self) -> None:
        """The name in DNS is in A-labels, and in lower case."""
        found = SigningSettings("Bücher.example", "S1.Mail", "k")
        self.assertEqual(found.place, "s1.mail._domainkey.xn--bcher-kva.example")

    def test_bad(self) -> None:
        """What is no domain or selector says what was expected."""
        for domain in ("a b", "[192.0.2.1]", ""):
            self.assertIn("domain: a domain", self.refused(domain=domain))
        for selector in ("", "a b", "-a", "a..b", "ü", "x" * 64):
            self.assertIn("selector: a selector of", self.refused(selector=selector))

    def test_changing(self) -> None:
        """What servers change cannot be signed: it would break at the next one."""
        for name in (
            *("Received", "return-path", "Delivered-To", "Bcc", "DKIM-Signature", "ARC-Seal"),
            *("Authentication-Results", "X-Deferrals-Junk", "Comments"),
        ):
            self.assertIn(
                "headers: fields that no server changes", self.refused(headers=("From", name))
            )
        for name in ("a b", "a;b", "a=b"):
            self.assertIn("headers: names of fields", self.refused(headers=(name,)))


class FieldTests(SynchronousTestCase):
    """
    Which fields are signed, and whose message it is.
    """

    def names(self, header: bytes, *headers: str) -> list[bytes]:
        return namesToSign(fieldsIn(header), headers)

    def test_oversigned(self) -> None:
        """From is signed once more than it is there, whether it is named or not."""
        header = b"From: a@example.net\r\nSubject: x\r\nX-Other: y"
        self.assertEqual(self.names(header, "Subject", "To"), [b"from", b"subject", b"from"])

    def test_several(self) -> None:
        """Each field of a name is signed, but not thousands."""
        header = b"From: a@example.net" + b"\r\nCc: b@example.net" * 2
        self.assertEqual(self.names(header, "Cc").count(b"cc"), 2)
        header += b"\r\nCc: b@example.net" * 1000
        self.assertEqual(self.names(header, "Cc").count(b"cc"), MOST_ALIKE)

    def test_fields(self) -> None:
        """A field has its folded lines; what is none is passed over."""
        found = fieldsIn(b"A: 1\r\n\t2\r\nnone\r\nb :3")
        self.assertEqual(found, [Field(b"a", b"A: 1\r\n\t2"), Field(b"b", b"b :3")])
        self.assertEqual([one.value for one in found], [b" 1\r\n\t2", b"3"])

    def authors(self, header: bytes) -> list[str]:
        return [one.domain for one in authors(fieldsIn(header))]

    def test_authors(self) -> None:
        """An author's domain is in A-labels; each of several counts."""
        self.assertEqual(
            self.authors('From: "a@b.example" <a@Bücher.Example>'.encode()),
            ["xn--bcher-kva.example"],
        )
        self.assertEqual(
            self.authors(b"From: a@x.example, B <b@y.example>"), ["x.example", "y.example"]
        )

    def test_noAuthor(self) -> None:
        """Without just one From, or with one that cannot be read, there is no author."""
        for header in (
            b"Subject: x",
            b"From: a@x.example\r\nfrom: b@y.example",
            b"From: nobody",
            b"From: a@x.example, nobody",
            b"From: <a@x.example> <b@y.example>",
        ):
            self.assertEqual(self.authors(header), [], header)


class RightTests(SynchronousTestCase):
    """
    L{mayBeSigned}.
    """

    def may(self, author: str, user: str | None, sender: str = "a@example.net") -> bool:
        envelope = makeEnvelope(sender, client=Client("192.0.2.1", user=user))
        return mayBeSigned(Mailbox.parse(author), envelope, "mx.example.org")

    def test_login(self) -> None:
        """A login signs for its own domain, and for that of a sender that it may use."""
        self.assertTrue(self.may("other@example.com", "a@example.com"))
        self.assertTrue(self.may("other@example.net", "a@example.com"))
        self.assertTrue(self.may("a@mx.example.org", "a", sender=""))
        self.assertFalse(self.may("boss@example.org", "a@example.com"))
        self.assertFalse(self.may("boss@example.org", "a@b c", sender=""))

    def test_forwarded(self) -> None:
        """A reverse path that this server has made of another proves nothing of a login."""
        for local in ("SRS0=HHHH=TT=example.com=eve", "srs1+HHHH=example.com==eve", "srs0-eve"):
            sender = f"{local}@example.org"
            self.assertFalse(self.may("boss@example.org", "eve@example.com", sender), local)

    def test_network(self) -> None:
        """Clients that are let in by their network may send as they like."""
        self.assertTrue(self.may("boss@example.org", None))


def relaxed(body: bytes) -> bytes:
    """
    RFC 6376 §3.4.4, word by word.
    """
    lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


BODIES = st.lists(
    st.sampled_from([b" ", b"\t", b"\r\n", b"a", b"bc", b"\xc3\xa9", b"\r\n\r\n", b"."]),
    max_size=30,
).map(b"".join)


class BodyTests(SynchronousTestCase):
    """
    L{BodyHash}.
    """

    def hashed(self, *chunks: bytes) -> bytes:
        body = BodyHash()
        for chunk in chunks:
            body.feed(chunk)
        return base64.b64decode(body.end())

    @settings(deadline=None)
    @given(BODIES, st.lists(st.integers(0, 60), max_size=4))
    def test_pieces(self, body: bytes, places: list[int]) -> None:
        """However it is cut, it is the hash of the whole."""
        cuts = [0, *sorted(min(place, len(body)) for place in places), len(body)]
        chunks = [body[i:j] for i, j in itertools.pairwise(cuts)]
        self.assertEqual(self.hashed(*chunks), hashlib.sha256(relaxed(body)).digest())

    def test_empty(self) -> None:
        """Nothing, blanks and empty lines are an empty body (RFC 6376 §3.4.4)."""
        for body in (b"", b"\r\n", b" \t\r\n\r\n", b"  "):
            self.assertEqual(self.hashed(body), hashlib.sha256(b"").digest())

    def test_manyEnds(self) -> None:
        """Very many empty lines in the middle count, and are not kept."""
        body = b"a\r\n" + b"\r\n" * 100_000 + b"b"
        self.assertEqual(self.hashed(body), hashlib.sha256(body + b"\r\n").digest())


class RecordTests(SynchronousTestCase):
    """
    What DNS says of a key.
    """

    def problem(self, *records: str) -> str:
        return recordProblem([one.encode() for one in records], "rsa", b"key")

    def test_right(self) -> None:
        """What is published is right, also with blanks and further tags."""
        self.assertEqual(self.problem(recordOf("rsa", b"key")), "")
        self.assertEqual(
            self.problem("v=DKIM1; h=sha1:sha256 ; s=email; t=s; n=x; p= a2\r\n V5 ; "), ""
        )
        self.assertEqual(self.problem("p=a2V5"), "")
        self.assertEqual(
            recordProblem([recordOf("ed25519", b"key").encode()], "ed25519", b"key"), ""
        )

    def test_wrong(self) -> None:
        """Each way in which a record is wrong has its own words."""
        for record, words in (
            ("k=rsa; v=DKIM1; p=a2V5", "does not begin with v=DKIM1"),
            ("v=DKIM2; p=a2V5", "does not begin with v=DKIM1"),
            ("v=DKIM1; k=ed25519; p=a2V5", "a key of another kind: k=ed25519, not rsa"),
            ("v=DKIM1", "has no p="),
            ("v=DKIM1; p=", "revoked"),
            ("v=DKIM1; p=a2V", "no base64"),
            ("v=DKIM1; p=\xff", "no base64"),
            ("v=DKIM1; p=b3RoZXI=", "another key"),
            ("v=DKIM1; h=sha1; p=a2V5", "does not allow SHA-256"),
            ("v=DKIM1; s=tlsrpt; p=a2V5", "not for mail"),
            ("v=DKIM1; t=y; p=a2V5", "t=y"),
            ("v=DKIM1; p=a2V5; p=a2V5", "no list of tags"),
            ("v=spf1 -all", "does not begin with v=DKIM1"),
            ("example", "no list of tags"),
        ):
            self.assertIn(words, self.problem(record), record)
        self.assertIn("no TXT record", self.problem())
        self.assertIn("2 TXT records", self.problem("v=DKIM1; p=", "v=DKIM1; p=a2V5"))

    def test_zone(self) -> None:
        """A long record is several texts of 255 octets."""
        line = zoneLine("s._domainkey.example.net", "x" * 300)
        self.assertEqual(line, f's._domainkey.example.net. IN TXT ( "{"x" * 255}" "{"x" * 45}" )')
