"""
One file in many ways, each of which some mail program shows: field cases, by
hand.  (L{tests.readers} makes others.)
"""

from __future__ import annotations

import base64
import io
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import Refuse
from deferrals.stages.content.match.findings import EICAR
from deferrals.stages.content.match.stage import MatchRule, MatchSettings, MatchStage
from deferrals.testing import FakeServices, makeEnvelope, makeMessage
from tests.mails import zipped
from tests.reactors import TurningClock
from tests.stages.content.match.test_tnef import ATTACHED
from tests.stages.content.match.test_uuencode import uuencoded

_FILE = b"Content-Disposition: attachment; filename=a.exe\r\n\r\nMZ\r\n"
_USUAL = b"Content-Type: multipart/mixed; boundary=b1\r\n\r\n"
_BASE64 = b"Content-Transfer-Encoding: base64\r\n"


def matches(data: bytes, **rule: Any) -> bool:
    stage = MatchStage(MatchSettings((MatchRule(**rule),)), FakeServices(reactor=TurningClock()))
    verdicts: list[object] = []
    stage.judge(makeMessage(data), makeEnvelope(), []).addCallback(verdicts.append)
    return isinstance(verdicts[0], Refuse)


def multipart(top: bytes, part: bytes = _FILE, boundary: bytes = b"b1") -> bytes:
    """
    A message with one part; C{top} ends its header section.
    """
    end = b"--" + boundary + b"--\r\n"
    return b"Subject: x\r\n" + top + b"--" + boundary + b"\r\n" + part + end


#: How the type of the message can be written.
TOPS = (
    b"Content-Type : multipart/mixed; boundary=b1",
    b"Content-Type\t: multipart/mixed; boundary=b1",
    b"Content-Type:multipart/mixed;boundary=b1",
    b"Content-Type:\r\n multipart/mixed;\r\n boundary=b1",
    b"CONTENT-TYPE: MULTIPART/MIXED; BOUNDARY=b1",
    b"Content-Type: multipart / mixed; boundary=b1",
    b"Content-Type: multipart/ mixed; boundary=b1",
    b"Content-Type: multipart /mixed; boundary=b1",
    b"Content-Type: (c) multipart/mixed; boundary=b1",
    b"Content-Type: (c)multipart/mixed; boundary=b1",
    b"Content-Type: multipart(c)/mixed; boundary=b1",
    b"Content-Type: multipart/(c)mixed; boundary=b1",
    b"Content-Type: multipart/mixed (c); boundary=b1",
    b"Content-Type: multipart/mixed; (c) boundary=b1",
    b"Content-Type: multipart/mixed; boundary(c)=b1",
    b"Content-Type: multipart/mixed; boundary=(c)b1",
    b"Content-Type: multipart/mixed; boundary=b1 (c)",
    b"Content-Type: multipart/mixed; boundary=b1(c)",
    b'Content-Type: multipart/mixed; boundary="b1" (c)',
    b"Content-Type: (a (b) c) multipart/mixed; boundary=b1",
    b"Content-Type: multipart/mixed; boundary = b1",
    b'Content-Type: multipart/mixed; boundary = "b1"',
    b'Content-Type: multipart/mixed; boundary="b1',
    b"Content-Type: multipart/mixed; boundary='b1'",
    b"Content-Type: multipart/mixed boundary=b1",
    b"Content-Type: multipart/mixed, boundary=b1",
    b"Content-Type: multipart/mixed;; boundary=b1",
    b"Content-Type: multipart/mixed; x; boundary=b1",
    b"Content-Type: multipart/mixed; =; boundary=b1",
    b'Content-Type: multipart/mixed; x="; boundary=b1',
    b'Content-Type: multipart/mixed; x="\\"; boundary=b1"; boundary=b1',
    b"Content-Type: multipart/mixed; boundary*=utf-8''b1",
    b"Content-Type: multipart/mixed; boundary*=utf-8''%621",
    b"Content-Type: multipart/mixed; boundary*0=b; boundary*1=1",
    b"Content-Type: multipart/mixed; boundary*1=1; boundary*0=b",
    b"Content-Type: multipart/mixed; boundary=b2; boundary=b1",
    b"Content-Type: multipart/mixed; boundary=b1; boundary=b2",
    b"Content-Type: multipart/mixed; boundary=",
    b'Content-Type: multipart/mixed; boundary=""',
    b"Content-Type: multipart/mixed",
    b"Content-Type: multipart/; boundary=b1",
    b"Content-Type: multipart/x-own; boundary=b1",
    b"Content-Type: multipart/mixed; boundary=B1",
    b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b1",
    b"Content-Type: multipart/mixed; boundary=b1\r\nContent-Type: text/plain",
    b"Content-Type: multipart/mixed; boundary=b2\r\nContent-Type: multipart/mixed; boundary=b1",
    b"Content-Type: multipart/mixed; boundary=b1\r\nContent-Type: multipart/mixed; boundary=b2",
    b"this line is no field\r\nContent-Type: multipart/mixed; boundary=b1",
    b": no name\r\nContent-Type: multipart/mixed; boundary=b1",
    b"X-\xe4: x\r\nContent-Type: multipart/mixed; boundary=b1",
    b"From me Mon Jan  1 00:00:00 2024\r\nContent-Type: multipart/mixed; boundary=b1",
    b" \r\nContent-Type: multipart/mixed; boundary=b1",
    b"Content-Type: multipart/mixed; boundary=b1\r\n \r\nX: y",
    b"Content-Type: multipart/mixed; \xa0boundary=b1",
    b"Content-Type: multipart/mixed;\r\r\n boundary=b1",
    b"Content-Type: multipart/mixed; boundary=b1\r\nContent-Transfer-Encoding: 8bit (c)",
)

#: What stands in front of the file's own part.
BETWEEN = (
    b"--b1\r\n",
    b"--b1 \r\n",
    b"--b1\t\r\n",
    b"--b1\n",
    b"--B1\r\n",
    b"--b1x\r\n",
    b'--"b1"\r\n',
    b"--b1 (c)\r\n",
    b"--b1\r\n--b1\r\n",
    b"--b1--\r\n--b1\r\n",
    b"--b1\r\n\r\nx\r\n--b1\r\n",
    b"--b1\r\nthis is no field\r\n",
    b"--b1\r\nFrom me Mon Jan  1 00:00:00 2024\r\n",
    b"--b1\r\nX-Odd : y\r\n",
    b"--b1\r\n: no name\r\n",
    b"--b1\r\n \r\n",
    b"--b1\r\n\r\n",
    b"--b1\r\nContent-Type: text/plain\r\n--b1x\r\n",
    b"preamble\r\n--b1\r\n",
)

#: A part's header; its file is C{a.exe}, or something that ends so.
NAMES = (
    b"Content-Disposition : attachment; filename=a.exe",
    b"content-disposition:attachment;filename=a.exe",
    b"Content-Disposition: filename=a.exe",
    b"Content-Disposition: ; filename=a.exe",
    b"Content-Disposition: attachment filename=a.exe",
    b"Content-Disposition: attachment; FileName=a.exe",
    b'Content-Disposition: attachment; filename="a.exe"',
    b'Content-Disposition: attachment; filename="a.exe',
    b'Content-Disposition: attachment; filename=a.exe"',
    b'Content-Disposition: attachment; filename="a.exe"x',
    b"Content-Disposition: attachment; filename='a.exe'",
    b"Content-Disposition: attachment; filename = a.exe",
    b"Content-Disposition: attachment; filename=(c)a.exe",
    b"Content-Disposition: attachment; filename=a.exe (c)",
    b"Content-Disposition: (c) attachment; filename=a.exe",
    b"Content-Disposition: attachment (; filename=a.exe",
    b"Content-Disposition: attachment; filename=a.txt; filename=a.exe",
    b"Content-Disposition: attachment; filename=a.exe; filename=a.txt",
    b"Content-Disposition: attachment; filename=a.txt\r\nContent-Disposition: x; filename=a.exe",
    b"Content-Disposition: attachment; filename=a.exe\r\nContent-Disposition: x; filename=a.txt",
    b"Content-Type: a/b; name=a.exe\r\nContent-Disposition: attachment; filename=a.txt",
    b"Content-Type: a/b; name=a.txt\r\nContent-Disposition: attachment; filename=a.exe",
    b"Content-Type: a/b; name=a.exe",
    b"Content-Type: a/b; name*=utf-8''a.exe",
    b"Content-Type: text/plain; name=a.exe",
    b"Content-Disposition: attachment; filename*=utf-8''a%2Eexe",
    b"Content-Disposition: attachment; filename*=''a%2Eexe",
    b"Content-Disposition: attachment; filename*=a%2Eexe",
    b"Content-Disposition: attachment; filename*=x-none'en'a%2eexe",
    b"Content-Disposition: attachment; filename=utf-8''a%2Eexe",
    b"Content-Disposition: attachment; filename*=\"utf-8''a%2Eexe\"",
    b"Content-Disposition: attachment; filename*0=a.; filename*1=exe",
    b"Content-Disposition: attachment; filename*1=exe; filename*0=a.",
    b"Content-Disposition: attachment; filename*1=a.; filename*2=exe",
    b"Content-Disposition: attachment; filename*0*=utf-8''a%2E; filename*1=exe",
    b"Content-Disposition: attachment; filename*0=x; filename*0=a.; filename*1=exe",
    b"Content-Disposition: attachment; filename=a.txt; filename*=utf-8''a.exe",
    b"Content-Disposition: attachment; filename=a.exe; filename*=utf-8''a.txt",
    b"Content-Disposition: attachment; filename==?utf-8?q?a=2Eexe?=",
    b'Content-Disposition: attachment; filename="=?utf-8?b?YS5leGU=?="',
    b'Content-Disposition: attachment; filename="=?utf-8?b?YS4=?= =?utf-8?b?ZXhl?="',
    b'Content-Disposition: attachment; filename="=?utf-8?b?YS4=?=\r\n =?utf-8?b?ZXhl?="',
    b'Content-Disposition: attachment; filename="a.\r\n exe"',
    b"Content-Disposition: attachment;\r\n filename=a.exe",
    b"Content-Disposition: attachment;\r\n\tfilename=a.exe",
    b'Content-Disposition: attachment; filename="a.exe."',
    b'Content-Disposition: attachment; filename="a.exe . ."',
    b'Content-Disposition: attachment; filename=" a.exe "',
    b'Content-Disposition: attachment; filename="c:\\\\x\\\\a.exe"',
    b'Content-Disposition: attachment; filename="x/a.exe"',
    b'Content-Disposition: attachment; filename="a.exe:x"',
    b'Content-Disposition: attachment; filename="a.exe::$DATA"',
    b'Content-Disposition: attachment; filename="a.exe\0.txt"',
    b'Content-Disposition: attachment; filename="a.e\xe2\x80\x8bxe"',
    b'Content-Disposition: attachment; filename="a.e\xc2\xadxe"',
    b'Content-Disposition: attachment; filename="a.exe\xe2\x80\xae"',
    b'Content-Disposition: attachment; filename="a.exe\xc2\xa0"',
    b'Content-Disposition: attachment; filename="a\xef\xbc\x8eexe"',
    b'Content-Disposition: attachment; filename="a.\xef\xbd\x85\xef\xbd\x98\xef\xbd\x85"',
    b"Content-Disposition: attachment; filename*=utf-8''a%EF%BC%8Eexe",
    b'Content-Disposition: attachment; filename="A.EXE"',
    b"Content-Disposition: attachment; filename=a.exe\r\n--b2",
)

_INNER = multipart(b"MIME-Version: 1.0\r\n" + _USUAL)

#: Messages as they are, in which C{a.exe} is.
CONTAINERS = {
    "rfc822": b"Content-Type: message/rfc822\r\n\r\n" + _INNER,
    "rfc822 with a comment": b"Content-Type: message/rfc822 (c)\r\n\r\n" + _INNER,
    "rfc822 in base 64": b"Content-Type: message/rfc822\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(_INNER),
    "rfc822 in quoted-printable": b"Content-Type: message/rfc822\r\n"
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + _INNER.replace(b"=", b"=3D"),
    "global": b"Content-Type: message/global\r\n\r\n" + _INNER,
    "global in base 64": b"Content-Type: message/global\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(_INNER),
    "news": b"Content-Type: message/news\r\n\r\n" + _INNER,
    "twice": b"Content-Type: message/rfc822\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(
        b"Content-Type: message/rfc822\r\n" + _BASE64 + b"\r\n" + base64.encodebytes(_INNER)
    ),
    "a digest": b"Content-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\n" + _INNER,
    "in a multipart": multipart(
        _USUAL.replace(b"b1", b"b0"), b"Content-Type: message/rfc822\r\n\r\n" + _INNER, b"b0"
    ),
    "uuencode in the text": b"Subject: x\r\n\r\nhello\r\n\r\n" + uuencoded(b"MZ", "a.exe"),
    "uuencode behind another": b"Subject: x\r\n\r\n"
    + uuencoded(b"x", "a.txt")
    + uuencoded(b"MZ", "a.exe"),
    "uuencode as the encoding": b"Content-Transfer-Encoding: uuencode\r\n\r\n"
    + uuencoded(b"MZ", "a.exe"),
    "x-uuencode": b"Content-Transfer-Encoding: X-UUENCODE (c)\r\n\r\n" + uuencoded(b"MZ", "a.exe"),
    "uuencode with base 64": b"Subject: x\r\n\r\nbegin-base64 644 a.exe\r\nTVo=\r\n====\r\n",
    "uuencode in a text in base 64": b"Content-Type: text/plain\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(uuencoded(b"MZ", "a.exe")),
    "TNEF": b"Content-Type: application/ms-tnef\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(ATTACHED.replace(b"A~1.EXE", b"aaa.exe")),
    "TNEF called something else": b"Content-Type: image/png\r\n"
    + _BASE64
    + b"\r\n"
    + base64.encodebytes(ATTACHED.replace(b"A~1.EXE", b"aaa.exe")),
    "LF": multipart(_USUAL).replace(b"\r\n", b"\n"),
    "CR CR LF": multipart(_USUAL).replace(b"\r\n", b"\r\r\n"),
    "an empty line first": b"\r\n" + multipart(_USUAL),
    "a mailbox's line first": b"From me Mon Jan  1 00:00:00 2024\r\n" + multipart(_USUAL),
    "a boundary of 201 octets": multipart(
        b"Content-Type: multipart/mixed; boundary=" + b"b" * 201 + b"\r\n\r\n", _FILE, b"b" * 201
    ),
    "a boundary of 1000 octets": multipart(
        b"Content-Type: multipart/mixed; boundary=" + b"b" * 1000 + b"\r\n\r\n", _FILE, b"b" * 1000
    ),
    "a boundary that is cut after 70": multipart(
        b"Content-Type: multipart/mixed; boundary=" + b"b" * 70 + b"\r\n\r\n", _FILE, b"b" * 75
    ),
    "never closed": multipart(_USUAL)[:-8],
    **{
        f"behind a line that no header declares, {case}": multipart(
            _USUAL, b"Content-Type: text/plain\r\n\r\nhello\r\n" + line + _FILE
        )[:-8]
        for case, line in {
            "at once": b"--x\r\n",
            "with a CR": b"--x\r",
            "behind another": b"--x\r\nContent-Type: text/plain\r\n\r\n--y\r\n",
            "behind another field": b"--x\r\nX-A: b\r\n",
            "behind one without an end": b"--x\r\nContent-Type: text; name=b\r\n--y\r\n",
        }.items()
    },
    "behind a line where none is declared": _USUAL + b"--x\r\nX: y\r\n\r\n--y\r\n" + _FILE,
    "behind such a line in a message": b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\n"
    b"hello\r\n--x\r\n" + _FILE,
}

#: Ways to say base 64, or to mean it.
ENCODINGS = (
    b"base64",
    b"BASE64",
    b" base64 ",
    b"base64 (c)",
    b"(c) base64",
    b"(c)base64(c)",
    b'"base64"',
    b"base64;",
    b"base64; x=y",
    b"base64, 8bit",
    b"\r\n base64",
    b"base-64",
    b"x-base64",
    b"8bit base64",
    b"7bit\r\nContent-Transfer-Encoding: base64",
    b"base64\r\nContent-Transfer-Encoding: 7bit",
    b"base64\r\nContent-Transfer-Encoding : quoted-printable",
    b"x-unknown",
    b"",
    b"7bit",
)


def archives() -> Iterator[tuple[str, bytes]]:
    """
    Archives in which C{a.exe} is, and what they are called.
    """
    plain = zipped({"a.exe": b"MZ"})
    yield "x.zip", plain
    yield "x", plain
    yield "x.zip", zipped({"b.txt": b""}) + plain
    yield "x.zip", plain + zipped({"b.txt": b""})
    yield "x.zip", b"in front" + plain + b"behind"
    yield "x.zip", plain.replace(b"a.exe", b"a.txt", 1)
    yield "x.zip", zipped({"a.txt": b"MZ"}).replace(b"a.txt", b"a.exe", 1)
    yield "x.zip", plain[: plain.index(b"PK\1\2")]
    yield "x.zip", zipped({"in.zip": plain})
    yield "x.zip", zipped({"in.zip": zipped({"in.jar": plain}, zipfile.ZIP_DEFLATED)})
    yield "x.zip", zipped({"a.exe. ": b""})
    yield "x.zip", zipped({"d\\a.exe": b""})
    yield "x.zip", zipped({"../a.exe": b""})
    yield "x.zip", zipped({"a.\uff45xe": b""})
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("b.txt"))
        archive.addfile(tarfile.TarInfo("a.exe"))
    yield "x.tar", file.getvalue()
    yield "x.tar", zipped({"in.tar": file.getvalue()})


class ShownTests(SynchronousTestCase):
    """
    What one mail program shows is seen.
    """

    def test_tops(self) -> None:
        """However the type of a multipart is written."""
        for top in TOPS:
            self.assertTrue(matches(multipart(top + b"\r\n\r\n"), attachment=("a.exe",)), repr(top))

    def test_between(self) -> None:
        """Whatever stands in front of a part."""
        for between in BETWEEN:
            data = b"Subject: x\r\n" + _USUAL + between + _FILE
            self.assertTrue(matches(data, attachment=("a.exe",)), repr(between))

    def test_names(self) -> None:
        """However its name is written."""
        for name in NAMES:
            data = multipart(_USUAL, name + b"\r\n\r\nMZ\r\n")
            self.assertTrue(matches(data, attachment=("a.exe",)), repr(name))
            self.assertFalse(matches(data, attachment=("*.scr", "b*")), repr(name))

    def test_containers(self) -> None:
        """Whatever it is in."""
        for case, data in CONTAINERS.items():
            self.assertTrue(matches(data, attachment=("a*.exe",)), case)

    def test_quoted(self) -> None:
        """A message that has no parts may speak of them, and one of each kind may hyphenate."""
        quoted = b"Subject: x\r\n\r\nhello\r\n--x\r\n" + _FILE
        self.assertFalse(matches(quoted, attachment=("a.exe",)))
        text = b"Content-Type: text/plain\r\n\r\n" + b"-- a.exe\r\n--x\r\nSubject: y\r\n" * 30_000
        self.assertFalse(matches(multipart(_USUAL, text), attachment=("a.exe",)))
        levels = b"--x%d\r\nContent-Type: multipart/x; boundary=x%d\r\n\r\n"
        text = b"\r\n" + b"".join(levels % (n, n + 1) for n in range(1000))
        self.assertFalse(matches(multipart(_USUAL, text), attachment=("a.exe",)))

    def test_encodings(self) -> None:
        """The test virus in base 64, however that is said."""
        for encoding in ENCODINGS:
            head = b"Content-Type: a/b\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n"
            for text in (base64.encodebytes(EICAR), b"!" + base64.encodebytes(EICAR)):
                if text[:1] != b"!" or b"64" in encoding:
                    self.assertTrue(matches(head + text, test="eicar"), (encoding, text))

    def test_archives(self) -> None:
        """What is in archives."""
        for name, archive in archives():
            part = b"Content-Disposition: attachment; filename=" + name.encode() + b"\r\n"
            data = multipart(_USUAL, part + _BASE64 + b"\r\n" + base64.encodebytes(archive))
            self.assertTrue(matches(data, archive=("a.exe",)), (name, archive))
            if archive[:2] == b"PK":
                self.assertTrue(matches(data, file_type=("zip", "docx")), (name, archive))

    def test_bodies(self) -> None:
        """Words in a text, under whatever its header says."""
        for encoding in (*ENCODINGS, b"quoted-printable", b"quoted-printable (c)"):
            for text in (b"win at the casino", base64.encodebytes(b"win at the casino")):
                head = b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n"
                if text[:3] == b"win" or b"quoted" not in encoding:
                    self.assertTrue(
                        matches(head + text, body=True, words=("casino",)), repr(encoding)
                    )
