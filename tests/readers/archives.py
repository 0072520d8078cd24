"""
Archives as no program should write them.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

Draw = Callable[..., object]

_NAMES = ("a.exe", "dir/b.exe", "\u00fc.exe", "c.txt", "d\\e.scr", "f.exe.", "n" * 150, "../g.exe")


@st.composite
def archives(draw: Draw) -> tuple[bytes, str]:
    """
    An archive, and its name.
    """
    data = draw(zips()) if draw(st.integers(0, 2)) else draw(tars())
    suffix = ".zip" if b"PK\3\4" in data[:100] or data[:2] == b"PK" else ".tar"
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    if suffix == ".tar" and draw(st.integers(0, 2)) == 0:
        whole = gzip.compress(data)
        end = draw(st.integers(30, len(whole))) if draw(st.integers(0, 2)) == 0 else len(whole)
        return whole[:end], ".tar.gz"
    return data, suffix


@st.composite
def zips(draw: Draw, depth: int = 1) -> bytes:
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4))
    data = _zipped(names, draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return b"something in front" + data
    if kind == 1:
        return data + draw(zips(0)) if depth else data
    if kind == 2:
        return data[: draw(st.integers(20, len(data)))]
    if kind == 3:  # another name in front of the member than in the directory
        old, new = b"a.exe", b"z.exe"
        return data.replace(old, new, 1)
    if kind == 4:
        return data + b"behind it"
    if kind == 5:
        extra = struct.pack("<HHBI", 0x7075, 10, 1, 0) + b"u.exe"
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            info = zipfile.ZipInfo("plain.txt")
            info.extra = extra
            archive.writestr(info, b"x")
        return file.getvalue()
    if kind in (6, 7):
        return _changed(draw, data)
    return data


#: Fields of a member in front of it and in the directory: their places, how long they
#: are, and what a program may write there that others read in their own way.
_FIELDS: Sequence[tuple[int, int, int, Sequence[int]]] = (
    (4, 6, 2, (0, 45, 63, 64, 90, 0xFFFF)),  # the version that is needed
    (6, 8, 2, (1, 8, 0x41, 0x800, 0x809, 0x2001)),  # flags: encrypted, UTF-8, masked
    (8, 10, 2, (1, 6, 9, 12, 14, 93, 99)),  # how it is compressed
    (18, 20, 4, (0, 1, 0xFFFFFFFF)),  # its size, compressed
    (22, 24, 4, (0, 1, 0xFFFFFFFF)),  # and unpacked
    (14, 16, 4, (0,)),  # its checksum
    (26, 28, 2, (0, 1, 3, 200)),  # how long its name is
    (28, 30, 2, (4, 20)),  # how long its extra fields are
)


def _changed(draw: Draw, data: bytes) -> bytes:
    """
    A zip of which some fields say something else: of one member, or of all; in front of
    it, in the directory, or in both.
    """
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        front, listed, octets, values = draw(st.sampled_from(_FIELDS))
        value = draw(st.sampled_from(values)).to_bytes(octets, "little")
        where = draw(st.sampled_from((((b"PK\3\4", front),), ((b"PK\1\2", listed),))))
        if draw(st.booleans()):
            where = ((b"PK\3\4", front), (b"PK\1\2", listed))
        one = draw(st.integers(-1, 3))
        for mark, offset in where:
            places = [match.start() + offset for match in re.finditer(re.escape(mark), data)]
            for place in places[one : one + 1] if one >= 0 else places:
                found[place : place + octets] = value
    return bytes(found)


def _zipped(names: list[str], method: int) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name in names:
            archive.writestr(name, b"MZ" * 50)
    return file.getvalue()


@st.composite
def tars(draw: Draw) -> bytes:
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4))
    form = draw(st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in names:
            if form == tarfile.USTAR_FORMAT and len(name) > 100:
                continue
            info = tarfile.TarInfo(name)
            info.size = 100
            archive.addfile(info, io.BytesIO(b"x" * 100))
    data = file.getvalue()
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return data + data.replace(b"a.exe", b"q.exe")
    if kind == 1:
        return data.replace(b"ustar", b"\0\0\0\0\0")
    if kind == 2:
        return data[: draw(st.integers(512, len(data)))]
    return data
