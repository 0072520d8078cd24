"""
What is in archives, and what a rule makes of it.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import contextlib
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.stages.content.match import archives
from deferrals.stages.content.match.archives import Budget, Unreadable, isArchive, members
from deferrals.stages.content.match.stage import MatchRule, MatchSettings, MatchStage
from deferrals.testing import FakeServices, makeEnvelope, makeMessage, makeRecipient
from tests.mails import mail, zipped
from tests.reactors import TurningClock
from tests.work import linesRun, peakOctets


def tarred(contents: Mapping[str, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def named(data: bytes, name: str = "x.zip", budget: Budget | None = None) -> list[str]:
    return list(members(io.BytesIO(data), [name], budget or Budget()))


class MemberTests(SynchronousTestCase):
    """
    L{members}.
    """

    contents = {"a.txt": b"x" * 1000, "dir/b \u00e4.exe": b"MZ"}

    def test_zip(self) -> None:
        """The names in a zip; also with something in front of it, and a comment behind."""
        data = zipped(self.contents)
        self.assertEqual(named(data), list(self.contents))
        self.assertEqual(named(b"MZ self-extracting" + data), list(self.contents))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", b"")
            archive.comment = b"PK\5\6 is not the end"
        self.assertRaises(Unreadable, named, file.getvalue()[:-10])
        self.assertEqual(named(zipped({})), [])

    def test_tar(self) -> None:
        """The names in a tar, long ones in both dialects included."""
        contents = {**self.contents, "d/" * 80 + "long \u00e4.exe": b"MZ" * 700, "last": b""}
        for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            self.assertEqual(named(tarred(contents, kind), "x.tar"), list(contents), kind)
        contents = {"p/" * 60 + "file": b""}
        self.assertEqual(named(tarred(contents, tarfile.USTAR_FORMAT)), list(contents))

    def test_compressed(self) -> None:
        """A compressed tar; a compressed file, whose name is what is left of the archive's."""
        data = tarred(self.contents)
        for compress, name in (
            (gzip.compress, "x.tar.gz"),
            (gzip.compress, "x.tgz"),
            (bz2.compress, "x.TBZ2"),
            (lzma.compress, "x.tar.xz"),
        ):
            found = named(compress(data), name)
            self.assertEqual(found[1:], list(self.contents), name)
            self.assertEqual(found[0].lower(), "x.tar")
        self.assertEqual(named(gzip.compress(b"MZ"), "virus.exe.gz"), ["virus.exe"])
        two = gzip.compress(data[:1000]) + gzip.compress(data[1000:])
        self.assertEqual(named(two, "x.tgz")[1:], list(self.contents))
        self.assertEqual(named(gzip.compress(data) + b"garbage", "x.tgz")[1:], list(self.contents))

    def test_streams(self) -> None:
        """Several compressed streams are one file, wherever one ends in what is read at once."""
        one, two = gzip.compress(tarred({"a": b""})[:512]), gzip.compress(tarred({"e.exe": b""}))
        for length in range(archives._PIECE_OCTETS - 7, archives._PIECE_OCTETS + 1):
            extra = length - len(one) - 2  # a field of the header may be as long as it likes
            long = one[:3] + b"\4" + one[4:10] + struct.pack("<H", extra) + bytes(extra) + one[10:]
            self.assertEqual(named(long + two, "x.tgz"), ["x.tar", "a", "e.exe"], length)

    def test_nested(self) -> None:
        """Archives in archives, to a depth."""
        data = zipped({"evil.exe": b"MZ"})
        self.assertEqual(named(tarred({"in.zip": data})), ["in.zip", "evil.exe"])
        self.assertEqual(
            named(zipped({"in.tgz": gzip.compress(tarred({"in.zip": data}))})),
            ["in.tgz", "in.tar", "in.zip", "evil.exe"],
        )
        for _ in range(archives.MAX_DEPTH + 1):
            data = zipped({"in.zip": data})
        self.assertRaises(Unreadable, named, data)

    def test_cut(self) -> None:
        """An archive that stops anywhere: names, or Unreadable, and nothing else."""
        nested = zipped({"in.tgz": gzip.compress(tarred(self.contents)), **self.contents})
        for data in (nested, tarred({"in.zip": nested}), bz2.compress(tarred(self.contents))):
            for end in range(0, len(data), 7):
                with contextlib.suppress(Unreadable):
                    named(data[:end], "x.zip")

    def test_encrypted(self) -> None:
        """An encrypted zip has names, and is unreadable."""
        data = bytearray(zipped({"secret.exe": b"MZ"}))
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(magic) + offset] |= 1
        names = []
        with self.assertRaises(Unreadable):
            for name in members(io.BytesIO(bytes(data)), ["x.zip"], Budget()):
                names.append(name)
        self.assertEqual(names, ["secret.exe"])

    def read(self, data: bytes, name: str = "x.zip") -> list[str]:
        """The names of an archive that cannot be read whole."""
        names = []
        with self.assertRaises(Unreadable):
            for one in members(io.BytesIO(data), [name], Budget()):
                names.append(one)
        return names

    def test_behind(self) -> None:
        """What is behind something that cannot be read is seen: programs show it."""
        data = bytearray(zipped({"secret": b"x", "b.exe": b"MZ"}))
        for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(magic) + offset] |= 1
        self.assertEqual(self.read(bytes(data)), ["secret", "b.exe"])
        for broken in (zipped({"a": b"x" * 99})[:60], b"PK\3\4", b"BZh9", b"\x1f\x8b\x08"):
            inside = {"in.zip": broken, "b.exe": b"MZ"}
            self.assertIn("b.exe", self.read(zipped(inside)))
            self.assertIn("b.exe", self.read(tarred(inside), "x.tar"))
        tar = tarred({"a": b"x", "b": b"x", "c.exe": b"MZ"})
        for at, octets in ((1024 + 130, b"'"), (1024 + 257, bytes(8))):
            self.assertIn("c.exe", self.read(tar[:at] + octets + tar[at + len(octets) :], "x.tar"))

    def test_checksums(self) -> None:
        """A checksum that is wrong hides nothing: programs show it, and complain."""
        tar = tarred({"a.exe": b"MZ", "b": b"x"})
        for compress, at in ((gzip.compress, -8), (bz2.compress, -6), (bz2.compress, 11)):
            data = bytearray(compress(tar))
            data[at] ^= 1
            self.assertIn("a.exe", self.read(bytes(data), "x.tgz"))
        first = bytearray(gzip.compress(tar[:1024]))
        first[-8] ^= 1
        self.assertIn("b", self.read(bytes(first) + gzip.compress(tar[1024:]), "x.tgz"))
        inside = bytearray(zipped({"in.zip": zipped({"a.exe": b"MZ"})}, zipfile.ZIP_DEFLATED))
        for mark, offset in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
            inside[inside.index(mark) + offset] ^= 1
        self.assertIn("a.exe", self.read(bytes(inside)))

    def test_sameName(self) -> None:
        """An archive that is not in the directory hides behind none that is called so."""
        hidden = zipped({"in.zip": zipped({"a.exe": b"MZ"})}, zipfile.ZIP_DEFLATED)
        shown = zipped({"in.zip": zipped({"b": b"x"})}, zipfile.ZIP_DEFLATED)
        self.assertIn("a.exe", named(hidden[: hidden.rindex(b"PK\1\2")] + shown))

    def test_beside(self) -> None:
        """What is beyond the bounds in an archive in it hides no name beside that."""
        self.patch(archives, "MAX_UNPACKED_OCTETS", 2 << 20)
        headers = _LOCAL * (archives.MAX_HEADERS + 1)
        many = zipped({str(number): b"" for number in range(archives.MAX_MEMBERS + 1)})
        for name, bomb in (
            ("bomb.gz", gzip.compress(bytes(3 << 20))),
            ("bomb.zip", headers),
            ("bomb.zip", many),
        ):
            inside = {name: bomb, "b.exe": b"MZ"}
            self.assertIn("b.exe", self.read(zipped(inside)))
            self.assertIn("b.exe", self.read(tarred(inside)))

    def test_cutStream(self) -> None:
        """What could be unpacked of a compressed tar is seen."""
        tar = tarred({"a.exe": os.urandom(5000), "b.exe": os.urandom(500_000)})
        for compress in (gzip.compress, lzma.compress):  # bzip2 has blocks of 900,000 octets
            self.assertIn("a.exe", self.read(compress(tar)[:400_000], "x.tgz"))

    def test_offset(self) -> None:
        """A member that begins behind all that a file can have."""
        data = zipped({"in.zip": zipped({"a.exe": b"MZ"})})
        at, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
        extra = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)
        entry = bytearray(data[at:end]) + extra
        entry[30:32], entry[42:46] = struct.pack("<H", len(extra)), b"\xff" * 4
        last = bytearray(data[end:])
        last[12:16] = struct.pack("<I", len(entry))
        self.assertIn("a.exe", self.read(data[:at] + bytes(entry + last)))

    def test_version(self) -> None:
        """A zip for programs of the future is one for those of today."""
        for version in (64, 100, 255):
            data = zipped({"a.exe": b"MZ"})
            at = data.index(b"PK\1\2") + 6
            self.assertEqual(self.read(data[:at] + bytes([version, 0]) + data[at + 2 :]), ["a.exe"])

    @given(st.binary(max_size=2000), st.sampled_from(["x.zip", "x.tar.gz", "x"]))
    def test_anything(self, data: bytes, name: str) -> None:
        """Any octets give names or Unreadable."""
        for start in (b"", b"PK\3\4", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", USTAR):
            with contextlib.suppress(Unreadable):
                named(start + data, name)

    @given(st.data())
    def test_damaged(self, data: st.DataObject) -> None:
        """An archive with damaged octets gives names or Unreadable."""
        whole = bytearray(data.draw(st.sampled_from(WHOLE)))
        for _ in range(data.draw(st.integers(1, 10))):
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
        with contextlib.suppress(Unreadable):
            named(bytes(whole), "x.zip")


_LOCAL = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
USTAR = b"x" * 257 + b"ustar\x0000" + b"\0" * 247
WHOLE = [
    zipped({"a.txt": b"x" * 100, "in.zip": zipped({"b": b"y"})}),
    tarred({"a.txt": b"x" * 100, "n" * 150: b"", "in.zip": zipped({"b": b"y"})}),
    tarred({"a.txt": b"x" * 100, "n" * 150: b""}, tarfile.PAX_FORMAT),
    gzip.compress(tarred({"a": b"b"})),
    lzma.compress(tarred({"a": b"b"})),
]


class HostileTests(SynchronousTestCase):
    """
    Archives that are made to cost.
    """

    def costs(self, data: bytes, name: str = "x.zip", lines: int = 100) -> None:
        """
        It is Unreadable, within bounds of work and memory.

        @param lines: so many for each member that there may be.
        """
        self.assertRaises(Unreadable, named, data, name)
        self.assertLess(linesRun(self.named, data, name), lines * archives.MAX_MEMBERS)
        self.assertLess(peakOctets(self.named, data, name), 16 << 20)

    def named(self, data: bytes, name: str) -> None:
        with contextlib.suppress(Unreadable):
            named(data, name)

    def test_bomb(self) -> None:
        """A bomb: 32 times the zeros that may be unpacked, in each of the ways."""
        self.patch(archives, "MAX_UNPACKED_OCTETS", 1 << 20)
        zeros = b"\0" * (32 << 20)
        self.costs(gzip.compress(zeros), "x.gz")
        self.costs(bz2.compress(zeros[: 4 << 20]) * 8, "x.bz2")
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            self.costs(zipped({"in.zip": zeros}, method))

    def test_many(self) -> None:
        """More members than anybody means to send, in a zip and in a tar."""
        entry = b"PK\1\2" + b"\0" * 24 + struct.pack("<HHH", 1, 0, 0) + b"\0" * 12 + b"x"
        for count in (archives.MAX_MEMBERS + 1, 20 * archives.MAX_MEMBERS):
            directory = entry * count
            end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), 0, 0)
            self.costs(directory + end)
        longer = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), 0)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 0, 0, 0)
        self.costs(directory + longer + locator + end)
        header = bytearray(tarred({"x": b""})[:512])
        self.costs(bytes(header) * 2 * archives.MAX_MEMBERS, "x.tar")
        self.costs(gzip.compress(gzip.compress(b"") * (archives.MAX_MEMBERS + 1)), "x.gz.gz")
        self.costs(tarred({"n" * (archives.MAX_NAME + 1): b""}), "x.tar")

    def test_headers(self) -> None:
        """
        Headers without end: that call nothing, that are all called the same, whose
        fields are in one another; a directory that is broken at its end; each in many
        archives in one.
        """
        extra = _LOCAL[:28] + b"\xff\xff" + _LOCAL[30:]
        entry = b"PK\1\2" + b"\0" * 24 + struct.pack("<HHH", 1, 0, 0) + b"\0" * 12 + b"x"
        directory = entry * 20_000
        end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory) + 46, 0, 0)
        for data in (
            (b"PK\3\4" + bytes(3)) * 150_000,
            _LOCAL * (archives.MAX_HEADERS - 1),
            (extra + bytes(1000)) * 1000,
            directory + b"PK\1\3" + bytes(42) + end,
        ):
            many = {f"{number}.zip": data for number in range(20)}
            self.costs(zipped(many, zipfile.ZIP_DEFLATED), lines=800)  # zipfile's are most

    def test_fields(self) -> None:
        """A pax header has as many fields as go into it, and there may be many of them."""
        info = tarfile.TarInfo("x")
        info.type, info.size = b"x", 65536
        header = info.tobuf(tarfile.USTAR_FORMAT) + b"2 " * 32768
        self.costs(gzip.compress(header * 50), "x.tgz")

    def test_tarTricks(self) -> None:
        """Sizes that are negative, too large, or of headers that never end."""
        header = bytearray(tarred({"x": b""})[:512])
        for size, kind in (
            (b"-7777777777\0", b"0"),
            (b"77777777777\0", b"0"),
            (b"77777777777\0", b"x"),
            (b"\xff" * 12, b"0"),
        ):
            header[124:136], header[156:157] = size, kind
            self.costs(bytes(header) + b"\0" * 2048, "x.tar")
        header[124:136], header[156:157] = b"00000001000\0", b"x"
        for pax in (b"0 path=x\n", b"-5 path=x\n", b"x path=x\n", b"9" * 512):
            self.costs(bytes(header) + pax.ljust(512, b"\0"), "x.tar")

    def test_budgetOfTheMessage(self) -> None:
        """The bounds hold for all archives of a message together."""
        budget = Budget()
        data = gzip.compress(b"\0" * (archives.MAX_UNPACKED_OCTETS // 2))
        named(data, "x.gz", budget)
        named(data, "x.gz", budget)
        self.assertRaises(Unreadable, named, data, "x.gz", budget)


class RuleTests(SynchronousTestCase):
    """
    The rules of C{match} about them.
    """

    def matches(self, attachments: list[tuple[str, str, bytes]], **rule: Any) -> bool:
        message = mail(attachments=attachments)
        stage = MatchStage(
            MatchSettings((MatchRule(**rule),)), FakeServices(reactor=TurningClock())
        )
        d = stage.judge(
            makeMessage(message.as_bytes()), makeEnvelope(), [makeRecipient("a@b.example")]
        )
        verdict = self.successResultOf(d)
        self.assertIn(type(verdict), (type(ACCEPT), Refuse))
        return isinstance(verdict, Refuse)

    def test_fileType(self) -> None:
        """A program is a program, whatever it is called."""
        program = ("holiday.jpg", "image/jpeg", b"MZ\x90\0\3\0\0\0" + b"\0" * 100)
        self.assertTrue(self.matches([program], file_type=("exe",)))
        self.assertTrue(self.matches([program], file_type=("*/*portable-executable",)))
        self.assertFalse(self.matches([program], file_type=("pdf", "image/*")))
        text = ("exe.txt", "text/plain", b"MZ not at the beginning"[3:])
        self.assertFalse(self.matches([text], file_type=("exe",)))

    def test_archive(self) -> None:
        """Names in archives, with and without their directories."""
        data = ("a.bin", "application/x", zipped({"dir\\sub/evil.EXE": b"MZ", "b.txt": b""}))
        for glob, wanted in (
            ("*.exe", True),
            ("evil.exe", True),
            ("dir*", True),
            ("b.txt", True),
            ("a.bin", False),
            ("*.scr", False),
        ):
            self.assertEqual(self.matches([data], archive=(glob,)), wanted, glob)
        large = ("a.zip", "application/zip", zipped({"x": os.urandom(2_000_000), "e.exe": b""}))
        self.assertTrue(self.matches([large], archive=("e.exe",)))
        self.assertFalse(self.matches([large], test="unreadable-archive"))

    def test_unreadable(self) -> None:
        """What cannot be looked into has a rule of its own; what was seen of it counts."""
        broken = ("a.zip", "application/zip", b"not a zip at all")
        self.assertTrue(self.matches([broken], test="unreadable-archive"))
        self.assertFalse(self.matches([broken], archive=("*",)))
        cut = tarred({"evil.exe": b"MZ" * 1000, "b": b""})[:2000]
        self.assertTrue(self.matches([("a", "a/b", cut)], archive=("evil.exe",)))
        self.assertTrue(self.matches([("a", "a/b", cut)], test="unreadable-archive"))

    def test_transferEncodings(self) -> None:
        """A large attachment is decoded piece by piece, whatever its encoding."""
        data = zipped({"x": os.urandom(700_000), "evil.exe": b""}, zipfile.ZIP_STORED)
        for encoding, body in (
            (b"base64", base64.encodebytes(data).replace(b"\n", b"\r\n")),
            (b"quoted-printable", binascii.b2a_qp(data, istext=False).replace(b"\n", b"\r\n")),
            (b"binary", data),
        ):
            content = b"Content-Type: application/zip\r\nContent-Transfer-Encoding: " + encoding
            stage = MatchStage(
                MatchSettings((MatchRule(archive=("evil.exe",)),)),
                FakeServices(reactor=TurningClock()),
            )
            message = makeMessage(content + b"\r\n\r\n" + body)
            verdict = self.successResultOf(stage.judge(message, makeEnvelope(), []))
            self.assertIsInstance(verdict, Refuse, encoding.decode())

    def test_blanksInFront(self) -> None:
        """Lines in front of it that mean nothing in base64 hide no file."""
        text = b"\r\n" * 5000 + base64.encodebytes(zipped({"evil.exe": b"MZ"}))
        mail = b"Content-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + text
        for rule in (MatchRule(archive=("evil.exe",)), MatchRule(file_type=("zip",))):
            stage = MatchStage(MatchSettings((rule,)), FakeServices(reactor=TurningClock()))
            verdict = self.successResultOf(stage.judge(makeMessage(mail), makeEnvelope(), []))
            self.assertIsInstance(verdict, Refuse, rule)

    def test_isArchive(self) -> None:
        """By the first octets, or by a name that says so."""
        self.assertTrue(isArchive(zipped({}), ["x"]))
        self.assertTrue(isArchive(b"MZ", ["x.ZIP"]))
        self.assertFalse(isArchive(b"MZ", ["x.exe"]))
