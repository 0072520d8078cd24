"""
A part's header section, as all readers together read it.

Mail programs differ in what a field is, where a section ends, and which of two
fields counts.  What one of them may go by is kept here: each value of a repeated
field, with comments and without, of fields behind a line that is none, too.
"""

from __future__ import annotations

import functools
import itertools
import re

import attrs

from deferrals.stages.content.match.fields import isPlain, readings, withoutComments

#: The lines of a section, however they end; what follows a line that is
#: continued belongs to it.
_FIELD_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?![ \t])")
#: Likewise for readers to whom a CR alone ends no line.
_FIELD_END_LF = re.compile(rb"(?<!\r)\r*+\n(?![ \t])")
_LONE_CR = re.compile(rb"\r(?!\n)")
#: Where some readers let a section end: at a line that is no field and no
#: continuation, and at one of blanks.  The end of the line before is sought:
#: an octet is found fast, and a place is not.
_NO_FIELD = re.compile(rb"[\r\n](?!\Z)(?![\x21-\x39\x3b-\x7e]*+:|[ \t\r\n])")
_BLANK = re.compile(rb"[\r\n](?=[ \t]++(?:\r\n|\n|\r|$))")
#: An empty boundary, for which any line is one that begins with two hyphens.
_NO_BOUNDARY = re.compile(r"boundary\s*+=\s*+(?:\"\"|;|\Z)", re.I)
#: A section that names more is not joined with the one behind it.
MAX_CARRIED = 100
#: Of lines that are no field, so many.
MAX_STARTS = 4
#: It is looked for from where a word begins: from each of its letters would be too long.
_TYPE = re.compile(r"(?<![^\s/;,\"()=])[^\s/;,\"()=]++\s*+/\s*+[^\s/;,\"()=]++")
#: Values that all readers read alike.
_MULTIPART = re.compile(
    r"\s*+multipart/[a-z.+-]++(?:\s*+;\s*+[a-z-]++=(?:\"[^\"\\\r\n]*+\"|[^\s;\"()]++))*\s*+;?\s*+",
    re.I,
)
_MESSAGE = re.compile(r"\s*+message/rfc822(?:\s*+;[^()]*+)?", re.I)
_USUAL_ENCODING = re.compile(r"\s*+(?:base64|quoted-printable|7bit|8bit|binary)\s*+", re.I)
_ENCODINGS = {
    "base64": "base64",
    "base-64": "base64",
    "x-base64": "base64",
    "quoted-printable": "quoted-printable",
    "quotedprintable": "quoted-printable",
    "x-uuencode": "uuencode",
    "uuencode": "uuencode",
    "x-uue": "uuencode",
    "uue": "uuencode",
    "7bit": "binary",
    "8bit": "binary",
    "binary": "binary",
}
_WORDS = re.compile(r"[a-z0-9-]++")


#: The fields of one name: that, as it is written, and the value.
_Fields = list[tuple[bytes, str]]


def oddOctets(octets: bytes) -> tuple[int, int]:
    """
    @param octets: a header section.
    @return: how long the longest of the fields is that readers read in many ways,
        and all of them together.
    """
    types, dispositions, _ = _kept(octets)
    lengths = [len(value) for _, value in (*types, *dispositions) if not isPlain(value)]
    return max(lengths, default=0), sum(lengths)


@attrs.frozen
class PartHeader:
    """
    What is kept of a part's header.  Of a part that is written as the standards
    say, each has one element, or none.

    @ivar mimeTypes: in lower case; C{text/plain} where there is none that makes
        sense.
    @ivar names: what the part is called.
    @ivar boundaries: of its own parts.
    @ivar encodings: C{base64}, C{quoted-printable}, C{uuencode} or C{binary}.
    @ivar charsets: of its text.
    @ivar isPlain: whether C{encodings} is what all readers take.
    @ivar isContainer: whether all readers take its content for nothing but other
        parts.
    @ivar isEmpty: whether none of the fields is there.
    """

    mimeTypes: tuple[str, ...] = ("text/plain",)
    names: tuple[str, ...] = ()
    boundaries: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    charsets: tuple[str, ...] = ()
    isPlain: bool = False
    isContainer: bool = False
    isEmpty: bool = True

    @functools.cached_property
    def mainTypes(self) -> set[str]:
        """
        The parts of the MIME types before the slash.
        """
        return {kind.partition("/")[0] for kind in self.mimeTypes}

    @property
    def isShort(self) -> bool:
        """
        Whether it names but a few files and boundaries.
        """
        return len(self.names) + len(self.boundaries) + len(self.mimeTypes) <= MAX_CARRIED

    @functools.cached_property
    def isMessage(self) -> bool:
        """
        Whether some reader takes its content for a message.
        """
        return any(kind.startswith("message/") for kind in self.mimeTypes)

    def joined(self, other: PartHeader) -> PartHeader:
        """
        @return: what readers go by who take both for one section.
        """
        both = (self, other)
        return PartHeader(
            tuple(dict.fromkeys(kind for one in both for kind in one.mimeTypes)),
            tuple(dict.fromkeys(name for one in both for name in one.names)),
            tuple(dict.fromkeys(text for one in both for text in one.boundaries)),
            tuple(dict.fromkeys(name for one in both for name in one.encodings)),
            tuple(dict.fromkeys(name for one in both for name in one.charsets)),
            isEmpty=self.isEmpty and other.isEmpty,
        )

    @classmethod
    def read(cls, octets: bytes, default: str = "text/plain") -> PartHeader:
        """
        @param octets: a header section.
        @param default: what a part without a type is.
        """
        fields = _kept(octets)
        if not any(fields):
            return cls((default,)) if default != "text/plain" else NO_HEADER
        types, dispositions, encodings = ([value for _, value in one] for one in fields)
        found: dict[str, list[str]] = {}
        for value in (*dispositions, *types):
            for name, texts in readings(value).items():
                found.setdefault(name.strip(), []).extend(texts)
        kinds = dict.fromkeys(kind for value in types for kind in _mimeTypes(value))
        ways = tuple(dict.fromkeys(name for value in encodings for name in _encodings(value)))
        boundaries = tuple(dict.fromkeys(found.get("boundary", [])))
        if any(_NO_BOUNDARY.search(value) for value in types):
            boundaries = (*boundaries, "")
        return cls(
            tuple(kinds) or (default,),
            tuple(dict.fromkeys(found.get("filename", []) + found.get("name", []))),
            boundaries,
            ways,
            tuple(dict.fromkeys(found.get("charset", []))),
            _isUsual(fields[2], _USUAL_ENCODING),
            (_isUsual(fields[0], _MULTIPART) and len(boundaries) == 1)
            or (_isUsual(fields[0], _MESSAGE) and (not encodings or ways == ("binary",))),
            False,
        )


def _isUsual(fields: _Fields, form: re.Pattern[str]) -> bool:
    """
    Whether there is one such field, written as everybody writes it.
    """
    if len(fields) != 1:
        return False
    name, value = fields[0]
    return name[-1:].isalpha() and form.fullmatch(value) is not None


NO_HEADER = PartHeader()


@functools.lru_cache(maxsize=2)  # a section is weighed, and then read
def _kept(octets: bytes) -> tuple[_Fields, _Fields, _Fields]:
    """
    Content-Type, Content-Disposition and Content-Transfer-Encoding, each with
    its name as it is written.
    """
    values: dict[str, _Fields] = {}
    text = octets.lstrip(b" \t\r\n")
    lines = _FIELD_END.split(text)
    if _LONE_CR.search(text):
        lines += _FIELD_END_LF.split(text)
    for field in lines:
        name, colon, value = field.partition(b":")
        if colon and len(name) < 100 and name[:8].lower() == b"content-":
            known = name.decode("latin-1").strip().lower()
            values.setdefault(known, []).append((name, value.decode("utf-8", "surrogateescape")))
    return (
        values.get("content-type", []),
        values.get("content-disposition", []),
        values.get("content-transfer-encoding", []),
    )


def _mimeTypes(value: str) -> list[str]:
    found = []
    for text in (withoutComments(value), value):
        match = _TYPE.search(text.partition(";")[0])
        if match is not None:
            found.append("".join(match[0].split()).lower())
    return found


def _encodings(value: str) -> list[str]:
    texts = (withoutComments(value).lower(), value.lower())
    words = [word for text in texts for word in _WORDS.findall(text)]
    return [_ENCODINGS[word] for word in words if word in _ENCODINGS]


def isEncodedMessage(octets: bytes) -> bool:
    """
    @param octets: a header section, or the beginning of one.
    @return: whether it says that what follows is a message in a transfer encoding.
    """
    types, _, encodings = _kept(octets)
    ways = {way for _, value in encodings for way in _encodings(value)}
    kinds = (kind for _, value in types for kind in _mimeTypes(value))
    return bool(ways - {"binary"}) and any(kind.startswith("message/") for kind in kinds)


def otherStarts(octets: bytes) -> list[int]:
    """
    @param octets: a header section.
    @return: where its content begins for readers to whom the section ends
        before its empty line.
    """
    lines = b"\n" + octets
    places = list(itertools.islice(_NO_FIELD.finditer(lines), MAX_STARTS))
    return [found.start() for found in (*places, _BLANK.search(lines)) if found is not None]
