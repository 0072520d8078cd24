"""
What header fields say: parameters (RFC 2045 §5.1; continued, encoded, with
character sets: RFC 2231) and encoded words (RFC 2047), in time linear in the
length of the field.  The standard library's readers take seconds for some
fields of a few kilobytes.

L{parameters} reads as the standards say; L{readings} gives all that lenient
mail programs make of the same field, since each of them is lenient in its own
way.
"""

from __future__ import annotations

import binascii
import bisect
import codecs
import itertools
import re
import urllib.parse
from collections.abc import Iterator, Sequence

_PARAMETER = re.compile(r';\s*+([^\s=;]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;]*+)', re.S)
_SECTION = re.compile(r"(.+?)(?:\*([0-9]{1,4}))?(\*)?")
_WORDS = re.compile(r"(=\?[^?\s]++\?[bBqQ]\?[^?]*+\?=)(?:\s++(?==\?[^?\s]++\?[bBqQ]\?))?")
_WORD = re.compile(r"=\?([^?\s*]*+)[^?\s]*+\?([bBqQ])\?([^?]*+)\?=")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")

#: A parameter, wherever it may begin for a reader that does not care for
#: semicolons and quotes.
_ANYWHERE = re.compile(
    r"(?<![^\s;,\"()'])(filename|name|boundary|charset)"
    r"(?:\s*+\*\s*+([0-9]{1,9}))?\s*+(\*)?\s*+(?:\([^()]*+\)\s*+)?=\s*+",
    re.I,
)
#: Where a value ends for a reader that does not care for quotes.
_PIECES = re.compile(r"[^;]++")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)("\s*+(?:;|$))?', re.S)
_TOKEN = re.compile(r'[^\s;,"()]++')
#: A token as RFC 2045 has it: some readers end it at the first other character.
_STRICT_TOKEN = re.compile(r"[^\s()<>@,;:\\\"/\[\]?=]++")
_ESCAPED = re.compile(r"\\(.)", re.S)
_QUOTE = re.compile(r'\\.|"', re.S)
_NO_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: A percent sign and what some readers leave out with it where it encodes nothing.
_BROKEN_PERCENT = re.compile(r"%(?:[0-9A-Fa-f](?![0-9A-Fa-f]).?|(?![0-9A-Fa-f]))", re.S)
#: A word in base 64 with something else in it: some readers end it there, others
#: show it as it is.
_BROKEN_WORD = re.compile(r"(=\?[^?\s]++\?[bB]\?)([A-Za-z0-9+/=]*+)([^?A-Za-z0-9+/=][^?]*+)\?=")
_FOLDS = re.compile(r"[\r\n]++[ \t]*+")
_BLANKS = re.compile(r"[\r\n]+|\s{2,}|[^\S ]")

#: Codecs that no mail is written in; some of them take their time.
_NO_CHARSETS = {"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"}

#: A parameter in more sections than this has no more.
MAX_SECTIONS = 1000
#: Of a parameter in as many sections, any one may be lost to a reader.
MAX_SECTIONS_LOST = 8

#: A section of a parameter: its number, its text, whether that is encoded.
_Section = tuple[int, str, bool]


def parameters(value: str) -> dict[str, str]:
    """
    @param value: a field's value; what is in front of its first semicolon is
        no parameter.
    @return: values by name, names in lower case; of parameters of the same
        name the first one counts, and one that is encoded before one that is
        not.
    """
    plain: dict[str, str] = {}
    sections: dict[str, list[_Section]] = {}
    for found in _PARAMETER.finditer(value):
        text = _unquoted(found[2])
        match = _SECTION.fullmatch(found[1].lower())
        if match is None or (match[2] is None and match[3] is None):
            plain.setdefault(found[1].lower(), text)
        elif int(match[2] or 0) < MAX_SECTIONS:
            section = (int(match[2] or 0), text, match[3] is not None)
            sections.setdefault(match[1], []).append(section)
    return {**plain, **{name: _joined(_first(found)) for name, found in sections.items()}}


#: A value that all readers read alike: tokens, and quotes around words.
_PLAIN_WORD = r"[^\s\"\\'();=%*?]++"
_PLAIN = re.compile(
    r"\s*+[A-Za-z0-9./+_-]*+(?:\s*+;\s*+[A-Za-z-]++="
    rf"(?:[A-Za-z0-9._+-]++|\"{_PLAIN_WORD}(?: {_PLAIN_WORD})*\"))*\s*+;?\s*+"
)


def isPlain(value: str) -> bool:
    """
    Whether all readers read a field's value alike.
    """
    return _PLAIN.fullmatch(value) is not None


def readings(value: str) -> dict[str, list[str]]:
    """
    All that some reader takes for the value of C{filename}, C{name},
    C{boundary} or C{charset}: with comments and without, whatever the quotes
    and semicolons, each of those of the same name, plain and encoded, encoded
    words decoded and not.

    @param value: a field's value.
    @return: by name, in lower case.
    """
    found: dict[str, dict[str, None]] = {}
    if isPlain(value):
        for place in _PARAMETER.finditer(";" + value):
            found.setdefault(place[1].lower(), {})[_unquoted(place[2])] = None
        return {name: list(values) for name, values in found.items()}
    texts = dict.fromkeys((value, withoutComments(value)))
    for name, one in dict.fromkeys(pair for text in texts for pair in _everyValue(text)):
        values = found.setdefault(name, {})
        values.update(dict.fromkeys(read for read in _everyReading(one) if read))
    return {name: list(values) for name, values in found.items()}


def _everyReading(value: str) -> Iterator[str]:
    """
    A parameter's value as it is, and without what is encoded in it or folded.
    """
    yield from (value, words(value), _BLANKS.sub(" ", value), _FOLDS.sub("", value))
    yield value.replace("\r", "").replace("\n", "")
    if "=?" in value:
        yield words(value + "?=")
        yield words(_BROKEN_WORD.sub(r"\1\2?=", value))
        yield _BROKEN_WORD.sub(r"\2\3", value)
    if "'" in value:
        yield from (_joined([(0, value, True)]), *value.split("'", 3))
    if "%" in value and (fewer := _BROKEN_PERCENT.sub("", value)) != value:
        yield from (fewer, _joined([(0, fewer, True)]))


def _everyValue(value: str) -> Iterator[tuple[str, str]]:
    yield from ((name, text) for name, text in parameters(";" + value).items())
    for one in _PARAMETER.finditer(";" + value):
        yield one[1].lower(), _unquoted(one[2])
    for piece in _PIECES.findall(value):
        name, equals, text = piece.partition("=")
        if equals:
            yield name.strip().lower(), text.strip().strip('"')
    yield from _byPairs(value)
    yield from _anywhere(value)
    yield from _byNextQuotes(value)


def _anywhere(value: str) -> Iterator[tuple[str, str]]:
    places = list(_ANYWHERE.finditer(value))
    several: dict[str, list[list[_Section]]] = {}
    for number, place in enumerate(places):
        end = places[number + 1].start() if number + 1 < len(places) else len(value)
        name = place[1].lower()
        texts = _valuesIn(value[place.end() : end])
        if place[2] is None and place[3] is None:
            yield from ((name, text) for text in texts)
        one = [(int(place[2] or 0), text, place[3] is not None) for text in texts]
        several.setdefault(name, []).append(one)
    for name, found in several.items():
        if any(place[2] or place[3] for place in places if place[1].lower() == name):
            for chosen in dict.fromkeys(
                tuple(one[min(pick, len(one) - 1)] for one in found) for pick in (0, 1, -1)
            ):
                yield from ((name, text) for text in _everyJoin(chosen))
            for text, encoded in dict.fromkeys(section[1:] for one in found for section in one):
                yield name, _joined([(0, text, encoded)])


def _byPairs(value: str) -> Iterator[tuple[str, str]]:
    """
    As a reader has it that looks for a semicolon outside of pairs of quotes.
    """
    several: dict[str, list[_Section]] = {}
    for piece in _pairedPieces(value):
        name, equals, text = piece.partition("=")
        match = _SECTION.fullmatch(name.strip().lower())
        if not equals or match is None:
            continue
        text = text.strip()
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1].replace("\\\\", "\\").replace('\\"', '"')
        yield match[1], text
        several.setdefault(match[1], []).append((int(match[2] or 0), text, match[3] is not None))
    for name, sections in several.items():
        yield from ((name, text) for text in _everyJoin(sections))


def _pairedPieces(value: str) -> Iterator[str]:
    start, quoted = 0, False
    for found in re.finditer(r'\\"|[";]', value):
        if found[0] == '"':
            quoted = not quoted
        elif found[0] == ";" and not quoted:
            yield value[start : found.start()]
            start = found.end()
    yield value[start:]


def _byNextQuotes(value: str) -> Iterator[tuple[str, str]]:
    """
    As readers have it to whom a value is what stands between the next two
    quotes, wherever these are; and what is behind a quote that has no other.
    """
    quotes = [found.start() for found in _QUOTE.finditer(value) if found[0] == '"']
    ends = [*quotes[1:], len(value)]
    seen: set[tuple[str, int]] = set()
    for place in _ANYWHERE.finditer(value):
        at = bisect.bisect_left(quotes, place.end())
        key = (place[1].lower(), at)
        isNext = at < len(quotes) and ";" not in value[place.end() : quotes[at]]
        if isNext and key not in seen:
            seen.add(key)
            text = value[quotes[at] + 1 : ends[at]]
            yield from ((key[0], one) for one in (text, _ESCAPED.sub(r"\1", text)))


def _valuesIn(rest: str) -> list[str]:
    """
    @param rest: what is behind an equals sign.
    @return: what a reader may take of it, the likeliest first; at least one.
    """
    values = []
    for text in dict.fromkeys((rest, withoutComments(rest))):
        text = text.lstrip()
        quoted = _QUOTED.match(text)
        if quoted is not None:
            values += [_ESCAPED.sub(r"\1", quoted[1]), quoted[1]]
            values.append(text[1:].partition('"')[0])
            if quoted[2] is not None:
                break
        piece = text.partition(";")[0].strip()
        values += [piece, piece.strip("\"'"), piece.replace('"', ""), piece.replace("\\", "")]
        values += [piece.partition('"')[2].strip('"'), piece.partition("=")[0]]
        values.append(_NO_PERCENT.split(piece, maxsplit=1)[0])
        strict = _STRICT_TOKEN.match(piece)
        values += [strict[0]] if strict is not None else []
        token = _TOKEN.match(text.lstrip(' \t\r\n"'))
        if token is not None:
            values += [token[0], token[0].strip("'"), token[0].partition("\\")[0]]
    return values


def _everyJoin(sections: Sequence[_Section]) -> Iterator[str]:
    """
    Sections put together: as far as none is missing, whatever is missing, the
    first and the last of each number, and all of them, in two orders.
    """
    ordered = sorted(sections, key=lambda section: section[0])
    last = {section[0]: section for section in ordered}
    plain = [section for section in ordered if not section[2]]
    coded = [section for section in ordered if section[2]]
    ways = (_first(sections), list(last.values()), ordered, sorted(sections), plain, coded)
    for chosen in dict.fromkeys(map(tuple, ways)):
        yield _joined(chosen)
        yield _joined([(number, text, True) for number, text, _ in chosen])
        yield _joined(chosen, "latin-1")
        yield "".join(text for _, text, _ in chosen)
        yield "".join(_joined([(0, text, encoded)]) for _, text, encoded in chosen)
    if len(sections) <= MAX_SECTIONS_LOST:
        yield from map(_joined, _someLost(ordered))
    for _, text, encoded in sections:
        yield _joined([(0, text, encoded)])


def _someLost(ordered: list[_Section]) -> Iterator[list[_Section]]:
    """
    What is left where a reader does not take one section for one of its own, and
    each two that may then be the last.
    """
    if len(ordered) > 2:
        yield from (ordered[:lost] + ordered[lost + 1 :] for lost in range(len(ordered)))
        yield from (list(pair) for pair in itertools.combinations(ordered, 2))


def withoutComments(value: str) -> str:
    """
    @return: the value with the comments of RFC 822 left out; they may be in
        one another, and a parenthesis in quotes begins none.
    """
    kept: list[str] = []
    depth, quoted, position = 0, False, 0
    for found in re.finditer(r'\\.|["()]', value, re.S):
        mark, start = found[0], position
        position = found.end()
        if depth == 0:
            kept.append(value[start : found.start()])
        if mark == '"' and depth == 0:
            quoted = not quoted
        elif mark == "(" and not quoted:
            depth += 1
            continue
        elif mark == ")" and depth:
            depth -= 1
            continue
        if depth == 0:
            kept.append(mark)
    return "".join(kept) + ("" if depth else value[position:])


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text.strip()
    quoted = text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]
    return _ESCAPED.sub(r"\1", quoted)


def _first(sections: Sequence[_Section]) -> list[_Section]:
    """
    The first of each number, as far as none is missing.
    """
    first: dict[int, _Section] = {}
    for section in sections:
        first.setdefault(section[0], section)
    whole = []
    for number in range(min(MAX_SECTIONS, len(first) + 1)):
        if number not in first:
            break
        whole.append(first[number])
    return whole


def _joined(sections: Sequence[_Section], unsaid: str = "utf-8") -> str:
    """
    @param unsaid: the character set where none is said.
    """
    charset, pieces = unsaid, []
    for place, (_, text, encoded) in enumerate(sections):
        if place == 0 and encoded and text.count("'") >= 2:
            charset, _, text = text.split("'", 2)
        octets = text.encode("utf-8", "surrogateescape")
        pieces.append(urllib.parse.unquote_to_bytes(octets) if encoded else octets)
    return decoded(b"".join(pieces), charset or unsaid)


def words(value: str) -> str:
    """
    A field's value with its encoded words decoded, and what stands between
    two of them left out.
    """
    pieces: list[str] = []
    held: list[bytes] = []
    heldCharset = ""
    for number, piece in enumerate(_WORDS.split(value)):
        word = _WORD.fullmatch(piece) if number % 2 else None
        charset = word[1].lower() if word else ""
        if held and (piece if word is None else charset != heldCharset):
            pieces.append(decoded(b"".join(held), heldCharset))
            held = []
        if word is None:
            pieces.append(piece)
        else:
            held.append(_octets(word[2], word[3]))
            heldCharset = charset
    return "".join([*pieces, decoded(b"".join(held), heldCharset)])


def _octets(encoding: str, text: str) -> bytes:
    """
    What an encoded word stands for.
    """
    octets = text.encode("utf-8", "surrogateescape")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    return base64(octets)


def base64(octets: bytes) -> bytes:
    """
    What lenient mail programs make of it: all that is no base64 is left out,
    and so is a last character that is alone.
    """
    octets = _NOT_BASE64.sub(b"", octets)
    whole = len(octets) // 4 * 4
    rest = octets[whole:]
    tail = binascii.a2b_base64(rest + b"=" * (4 - len(rest))) if len(rest) > 1 else b""
    return binascii.a2b_base64(octets[:whole]) + tail


def decoded(octets: bytes, charset: str) -> str:
    """
    Octets as text, whatever the character set is called.
    """
    try:
        codec = codecs.lookup(charset or "utf-8").name
        if codec not in _NO_CHARSETS:
            text = octets.decode(codec, "replace")
            return _whole(text) if codec == "utf-7" else text
    except (LookupError, ValueError):
        pass
    return octets.decode("utf-8", "replace")


def _whole(text: str) -> str:
    """
    Without halves of characters, which UTF-7 can say alone.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
