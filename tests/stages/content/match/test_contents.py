"""
The files of a message; and messages that readers were found to read otherwise.
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import Refuse
from deferrals.stages.content.match import contents
from deferrals.stages.content.match.contents import MAX_DEPTH, files
from deferrals.stages.content.match.findings import EICAR
from deferrals.stages.content.match.mime import TooComplex
from deferrals.stages.content.match.stage import MatchRule, MatchSettings, MatchStage
from deferrals.testing import FakeServices, makeEnvelope, makeMessage
from tests.mails import mail, zipped
from tests.reactors import TurningClock
from tests.readers.compare import Seen
from tests.stages.content.match.test_tnef import ATTACHED
from tests.stages.content.match.test_uuencode import uuencoded

#: Messages that the generator of L{tests.readers} made, with what readers show
#: of them and C{match} did not see once.
CORPUS = os.path.join(os.path.dirname(__file__), "corpus.json")

_TOP = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b1\r\n\r\n"
_EXE = b"Content-Disposition: attachment; filename=a.exe\r\n\r\nMZ\r\n"


def _part(header: bytes, boundary: bytes = b"b1") -> bytes:
    return b"--" + boundary + b"\r\n" + header


#: Each shows C{a.exe} to some reader (field-tested variants of one attachment).
SHOWN = {
    "a line that is no field": _TOP + _part(b"this is none\r\n" + _EXE),
    "a blank before the colon": b"Content-Type : multipart/mixed; boundary=b1\r\n\r\n"
    + _part(_EXE),
    "blanks around the slash": b"Content-Type: multipart / mixed; boundary=b1\r\n\r\n"
    + _part(_EXE),
    "a comment first": b"Content-Type: (c) multipart/mixed; boundary=b1\r\n\r\n" + _part(_EXE),
    "a comment behind": b"Content-Type: multipart/mixed; boundary=b1 (c)\r\n\r\n" + _part(_EXE),
    "a boundary of 201 octets": b"Content-Type: multipart/mixed;\r\n boundary="
    + b"b" * 201
    + b"\r\n\r\n"
    + _part(_EXE, b"b" * 201),
    "two types": b"Content-Type: text/plain\r\n" + _TOP + _part(_EXE),
    "two types, the other way round": _TOP[:-2] + b"Content-Type: text/plain\r\n\r\n" + _part(_EXE),
    "two boundaries": _TOP[:-4] + b"; boundary=b2\r\n\r\n" + _part(_EXE, b"b2"),
    "two filenames": _TOP
    + _part(b"Content-Disposition: attachment; filename=a.txt; filename=a.exe\r\n\r\nMZ\r\n"),
    "filename and name": _TOP
    + _part(b"Content-Type: a/b; name=a.exe\r\nContent-Disposition: x; filename=a.txt\r\n\r\nMZ"),
    "a message in base 64": b"Content-Type: message/rfc822\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(_TOP + _part(_EXE)),
    "a message with LF in base 64": b"Content-Type: message/rfc822\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes((_TOP + _part(_EXE)).replace(b"\r", b"")),
    "message/global": b"Content-Type: message/global\r\n\r\n" + _EXE,
    "a digest's default": b"Content-Type: multipart/digest; boundary=b1\r\n\r\n--b1\r\n\r\n" + _EXE,
    "uuencode in the text": b"Subject: x\r\n\r\nhello\r\n" + uuencoded(b"MZ"),
    "uuencode as the encoding": b"Content-Transfer-Encoding: x-uuencode\r\n\r\n" + uuencoded(b"MZ"),
    "TNEF": b"Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(ATTACHED.replace(b"A~1.EXE", b"aaa.exe")),
    "a trailing dot": _TOP + _part(_EXE.replace(b"a.exe", b'"a.exe. "')),
    "a boundary with something behind": _TOP + b"--b1x\r\n" + _EXE,
    "a boundary in another case": _TOP + b"--B1\r\n" + _EXE,
    "a part behind the end": _TOP + b"--b1--\r\n--b1\r\n" + _EXE,
    "lines end with LF": (_TOP + _part(_EXE)).replace(b"\r\n", b"\n"),
}


class FilesTests(SynchronousTestCase):
    """
    L{files}, and the rules about them.
    """

    def matches(self, data: bytes, **rule: Any) -> bool:
        stage = MatchStage(
            MatchSettings((MatchRule(**rule),)), FakeServices(reactor=TurningClock())
        )
        d = stage.judge(makeMessage(data), makeEnvelope(), [])
        return isinstance(self.successResultOf(d), Refuse)

    def test_shown(self) -> None:
        """What a lenient reader shows is an attachment."""
        for case, data in SHOWN.items():
            self.assertTrue(self.matches(data, attachment=("*a.exe",)), case)

    def test_honest(self) -> None:
        """Ordinary mail has its own attachments, each once, and nothing else."""
        inner = mail(subject="inner", attachments=[("b.zip", "application/zip", zipped({}))])
        message = mail(html="<p>x", attachments=[("a.pdf", "application/pdf", b"%PDF-1.4")])
        message.add_attachment(inner)
        data = message.as_bytes()
        found = [(file.header.names, file.content(4)) for file in files(data) if file.header.names]
        self.assertEqual(found, [(("a.pdf",), b"%PDF"), (("b.zip",), b"PK\5\6")])
        text = "--\r\nmy signature\r\n-- \r\nbegin the day\r\n--- original ---\r\nContent-Type: x/y"
        kinds = {
            kind for file in files(mail(text=text).as_bytes()) for kind in file.header.mimeTypes
        }
        self.assertEqual(kinds, {"text/plain"})

    def test_encodings(self) -> None:
        """The test virus is found under every encoding that a reader may undo."""
        text = base64.encodebytes(EICAR)
        for field, body in (
            (b"base64", text),
            (b"BASE64 (c)", text),
            (b"(c) base64", text),
            (b'"base64"', text),
            (b"7bit\r\nContent-Transfer-Encoding: base64", text),
            (b"x-unknown", text),
            (b"7bit", text),
            (b"base64", b"!" + text[:8] + b" - " + text[8:]),
            (b"base64", base64.encodebytes(b"x" * 4) + text),
            (b"quoted-printable", EICAR.replace(b"=", b"=3D").replace(b"X", b"=58")),
            (b"x-uuencode", uuencoded(EICAR)),
            (b"7bit", uuencoded(EICAR)),
        ):
            data = b"Content-Type: a/b\r\nContent-Transfer-Encoding: " + field + b"\r\n\r\n" + body
            if field == b"7bit" and body.startswith(b"begin"):
                data = data.replace(b"a/b", b"text/plain")
            self.assertTrue(self.matches(data, test="eicar"), (field, body))

    def test_inside(self) -> None:
        """What is in archives of a message that is encoded in a message."""
        inner = mail(attachments=[("x.zip", "application/zip", zipped({"a.exe": b"MZ"}))])
        data = (
            b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            + base64.encodebytes(inner.as_bytes())
        )
        self.assertTrue(self.matches(data, archive=("*.exe",)))
        self.assertTrue(self.matches(data, file_type=("zip",)))

    def test_bounds(self) -> None:
        """Messages encoded in messages have a bound, in depth and in size."""
        head = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        data = b"Subject: x\r\n\r\n"
        for _ in range(MAX_DEPTH):
            data = head + base64.encodebytes(data)
        self.assertTrue(list(files(data)))
        self.assertRaises(TooComplex, list, files(head + base64.encodebytes(data)))
        self.patch(contents, "MAX_DECODED_OCTETS", 1000)
        self.assertRaises(TooComplex, list, files(head + base64.encodebytes(b"a: b\r\n" * 200)))

    def test_manyFiles(self) -> None:
        """What has no part of its own counts as one, too."""
        text = b"Subject: x\r\n\r\n" + b"begin 644 a\r\n" * 20
        count = len(list(files(text)))
        self.assertGreater(count, 20)
        self.patch(contents, "MAX_FILES", count - 1)
        self.assertRaises(TooComplex, list, files(text))

    def test_padding(self) -> None:
        """Padding in base 64 as rspamd reads it, in pieces of any size."""
        head = b"Content-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        for text, wanted in (
            (b"QQ=xQUJD", b"AABC"),
            (b"QQ==QUJD", b"AABC"),
            (b"QQ=\r\nQUJD", b"AABC"),
            (b"QQ!=QUJDQUI=", b"A\x04\x14$4\x14"),
            (b"QUI=RA==xQUJD", b"AB\x11\x03\x14\x14$"),
            (b"Q=QUJDRA==RQUJD", b"A\x05\t\r\x10\x11ABC"),
        ):
            found = list(files(head + text))
            for size in range(1, len(text) + 1):
                shown = {b"".join(file.pieces(size)) for file in found}
                self.assertIn(wanted, shown, (text, size))

    def test_ownHeader(self) -> None:
        """An encoded message is not sought in its own header, again and again."""
        field = b"Content-Type : message/partial\r\n"
        head = field + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        data = b"Subject: x\r\n" + head + b"Content-Type: a/b; name=3D'a.exe'=0D=0A=0D=0AMZ\r\n"
        self.assertIn("a.exe", {name for file in files(data) for name in file.header.names})
        inside = b"Content-Type: message/rfc822\r\n" + head[len(field) : -2] + b" \r\n" + _TOP
        shown = files(inside.replace(b"=b1", b"=3Db1") + _part(_EXE.replace(b"=a", b"=3Da")))
        self.assertIn("a.exe", {name for file in shown for name in file.header.names})

    def test_overlap(self) -> None:
        """Contents that overlap a lot are of no honest message."""
        part = b"Content-Type: a/b\r\nContent-Type: message/rfc822\r\n\r\n"
        self.assertRaises(TooComplex, list, files(part * 400))

    def test_corpus(self) -> None:
        """What was not seen once."""
        with open(CORPUS, encoding="utf-8") as file:
            found = json.load(file)
        self.assertGreater(len(found), 20)
        for case in found:
            data = case["message"].encode("latin-1")
            seen = Seen(data)
            self.assertFalse(seen.refused)
            for name in case["names"]:
                self.assertTrue(seen.hasName(name.encode("latin-1")), (name, data))
            for content in case["contents"]:
                self.assertTrue(seen.hasContent(content.encode("latin-1")), (content, data))


#: What they are asked, as one pattern each says it: which take far too long.
_ODD = re.compile(rb"[^A-Za-z0-9+/=\s]|[A-Za-z0-9+/][ \t]++[A-Za-z0-9+/]")
_PADDED_INSIDE = re.compile(rb"=[^A-Za-z0-9+/]*+[A-Za-z0-9+/]")


class PatternTests(SynchronousTestCase):
    """
    What is asked of a content in base 64.
    """

    @given(st.text(alphabet="Az9+/= \t\r\n\f\v-\0\u00e9"), st.integers(1, 8))
    def test_isOdd(self, text: str, size: int) -> None:
        """Whatever the pieces are it comes in."""
        data = text.encode("latin-1")
        pieces = iter([data[at : at + size] for at in range(0, len(data), size)])
        self.assertEqual(contents._isOdd(pieces), _ODD.search(data) is not None)

    @given(st.text(alphabet="A/= \r\n-"), st.integers(0, 4), st.integers(0, 12))
    def test_isPaddedInside(self, text: str, start: int, end: int) -> None:
        """Within a part, and not beyond it."""
        data = text.encode("ascii")
        expected = _PADDED_INSIDE.search(data, start, end) is not None
        self.assertEqual(contents._isPaddedInside(data, start, end), expected)
