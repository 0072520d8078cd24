"""
The macro strings of SPF records (RFC 7208 §7): their syntax, and what they
expand to.

What a record says is foreign.  A string is read in one pass, and an expansion
begins at the right-hand end and stops where the longest name is full: what
stands further left would be cut off in any case (RFC 7208 §7.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import attrs

#: The longest name that DNS can be asked for, in octets (RFC 7208 §7.3).
MAX_NAME_OCTETS = 253
MAX_LABEL_OCTETS = 63

_TOKEN = re.compile(
    r"(?P<literal>[\x21-\x24\x26-\x7e]+)"
    r"|%\{(?P<letter>[a-z])(?P<digits>[0-9]*)(?P<reverse>r?)(?P<delimiters>[.\-+,/_=]*)\}"
    r"|%(?P<character>[%_\-])",
    re.I,
)
_CHARACTERS = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?")

#: Macro letters, and those that only an explanation may have.
_LETTERS = "slodiphv"
_EXPLANATION_LETTERS = "crt"


class RecordError(ValueError):
    """
    An SPF record is not written as RFC 7208 has it: the result is I{permerror}.
    """


def isName(name: str) -> bool:
    """
    Whether DNS is asked for a name: two labels at least, none empty or too long
    (RFC 7208 §4.3).  Any printable ASCII may be in them.
    """
    if len(name) > MAX_NAME_OCTETS or not (name.isascii() and name.isprintable()):
        return False
    labels = name.split(".")
    return len(labels) > 1 and all(0 < len(label) <= MAX_LABEL_OCTETS for label in labels)


@attrs.frozen
class Macro:
    """
    One C{%{…}}.

    @ivar letter: what is inserted, lower case.
    @ivar isEscaped: whether its characters are escaped as in URLs.
    @ivar parts: how many right-hand parts are used; 0 for all.
    @ivar isReversed: whether the parts are put in reverse order first.
    @ivar delimiters: characters, each once, that the value is split at.
    """

    letter: str
    isEscaped: bool
    parts: int
    isReversed: bool
    delimiters: str

    def expand(self, values: Mapping[str, str]) -> str:
        """
        @param values: by letter.
        """
        first = self.delimiters[0]
        value = values[self.letter]
        for delimiter in self.delimiters[1:]:
            value = value.replace(delimiter, first)
        parts = value.split(first)
        if self.isReversed:
            parts.reverse()
        value = ".".join(parts[-self.parts :])
        return quote(value, safe="", errors="replace") if self.isEscaped else value


def _parts(digits: str) -> int:
    """
    @raise RecordError: it is zero (RFC 7208 §7.3).
    """
    significant = digits.lstrip("0")
    if digits and not significant:
        raise RecordError("a macro that uses no part of its value")
    # No value has a thousand parts; and no number of many digits is converted.
    return int(significant) if 0 < len(significant) <= 3 else 0


def _macro(token: re.Match[str], isExplanation: bool) -> Macro:
    letter = token["letter"].lower()
    if letter not in _LETTERS and not (isExplanation and letter in _EXPLANATION_LETTERS):
        raise RecordError(f"there is no macro {letter!r} here")
    return Macro(
        letter,
        token["letter"].isupper(),
        _parts(token["digits"]),
        bool(token["reverse"]),
        "".join(dict.fromkeys(token["delimiters"])) or ".",
    )


def _tokens(text: str, isExplanation: bool) -> list[str | Macro]:
    """
    @raise RecordError: it is no C{macro-string}.
    """
    found: list[str | Macro] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise RecordError("a macro that is none, or a character that may not be there")
        position = token.end()
        if token["letter"]:
            found.append(_macro(token, isExplanation))
        else:
            found.append(token["literal"] or _CHARACTERS[token["character"]])
    return found


def checkMacroString(text: str) -> None:
    """
    Check what an unknown modifier says (RFC 7208 §6).

    @raise RecordError: it is no C{macro-string}.
    """
    _tokens(text, isExplanation=True)


def _hasEnd(text: str) -> bool:
    """
    Whether there is a C{domain-end}: a dot and a top label, or a macro.
    """
    *_, last = _TOKEN.finditer(text)
    if last["literal"] is None:
        return True
    _, dot, label = last["literal"].removesuffix(".").rpartition(".")
    return bool(dot and _TOP_LABEL.fullmatch(label)) and not label.isdigit()


@attrs.frozen
class DomainSpec:
    """
    A C{domain-spec} (RFC 7208 §7.1): a name, perhaps with macros.

    @ivar parts: text and macros.
    @ivar letters: of its macros.
    """

    parts: tuple[str | Macro, ...]
    letters: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> DomainSpec:
        """
        @raise RecordError: it is none.
        """
        tokens = _tokens(text, isExplanation=False)
        if not tokens or not _hasEnd(text):
            raise RecordError("a domain that ends in no top-level domain and in no macro")
        return cls(
            tuple(tokens), frozenset(part.letter for part in tokens if isinstance(part, Macro))
        )

    def expand(self, values: Mapping[str, str]) -> str:
        """
        @param values: by macro letter.
        @return: the name, no longer than DNS can be asked for where labels can
            be cut off at its left (RFC 7208 §7.3); it may be none all the same
            (L{isName}).
        """
        pieces: list[str] = []
        octets = 0
        for part in reversed(self.parts):
            pieces.append(part if isinstance(part, str) else part.expand(values))
            octets += len(pieces[-1])
            if octets > MAX_NAME_OCTETS + 1:  # one may be the dot at the end
                break
        return _cut("".join(reversed(pieces)).removesuffix("."))


def _cut(name: str) -> str:
    if len(name) <= MAX_NAME_OCTETS:
        return name
    return name[name.find(".", len(name) - MAX_NAME_OCTETS - 1) + 1 :]
