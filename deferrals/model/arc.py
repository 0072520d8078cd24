"""
A forwarder's seal (ARC, RFC 8617): what a message's chain of seals is, where DNS has the
keys that are needed to check it, and what C{ARC-Authentication-Results} says.  Keys are
used elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from deferrals.model.dkim import Field
from deferrals.model.spfmacro import isName

RESULTS, MESSAGE, SEAL = (
    b"arc-authentication-results",
    b"arc-message-signature",
    b"arc-seal",
)

#: RFC 8617 §4.2.1.
MOST_SETS = 50

#: More than this makes checking slow: a message with more is not checked.
MOST_FIELDS, MOST_SIGNATURES, MOST_NAMES = 1000, 10, 200
MOST_OCTETS = 8 * 1024

#: RFC 8301 §3.2 asks for 4096 bits.  What checks computes with the key as DNS has it, in
#: one go: the work grows with the cube of the bits.
MOST_KEY_BITS, MOST_EXPONENT_BITS = 4096, 64

#: For each run of blanks within a line, the squares of their lengths together: so many
#: steps does what checks need to find that no line ends behind one.
MOST_BLANK_STEPS = 100_000_000

#: So many blanks and line ends are in a message, and so many in all when it is checked for
#: each signature: each of them is a step of an expression that nothing interrupts.
MOST_PIECES, MOST_TIMES_PIECES = 1_000_000, 4_000_000

_LONG_BLANKS = re.compile(rb"[\t ]{32,}")

_INSTANCE = re.compile(rb"(?:^|;)\s*i\s*=\s*(\d{1,4})\s*(?:;|$)")
_TAG = re.compile(rb"(?:^|;)\s*([a-z])\s*=\s*([^;]*)")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})")


class NoChain(ValueError):
    """
    A chain of seals that is none.
    """


def _tag(field: Field, name: bytes) -> str:
    """
    @return: the value of a tag that is a name of DNS; empty where it is none.
    """
    tags = dict(_TAG.findall(field.value))
    text = re.sub(rb"\s+", b"", tags.get(name, b"")).decode("ascii", "replace")
    return text if _NAME.fullmatch(text) else ""


def domainOf(field: Field) -> str:
    """
    Who has signed.
    """
    return _tag(field, b"d")


def selectorOf(field: Field) -> str:
    """
    With which key.
    """
    return _tag(field, b"s")


def placeOf(field: Field) -> str | None:
    """
    @return: the name in DNS of the key that a signature is made with; C{None} where it
        names none, so that DNS can have none, either.
    """
    place = f"{selectorOf(field)}._domainkey.{domainOf(field)}".lower()
    return place if isName(place) else None


def signaturesIn(fields: Iterable[Field]) -> list[Field]:
    """
    @return: the DKIM signatures.
    """
    return [one for one in fields if one.name == b"dkim-signature"]


def setsIn(fields: Iterable[Field]) -> list[tuple[Field, Field, Field]]:
    """
    @return: the sets of a chain, the first one first: each its results, its signature and
        its seal.
    @raise NoChain: they are not whole, or not one for each number.
    """
    found: dict[tuple[int, bytes], Field] = {}
    count = 0
    for one in fields:
        if one.name not in (RESULTS, MESSAGE, SEAL):
            continue
        match = _INSTANCE.search(one.value)
        number = int(match[1]) if match else 0
        if not 0 < number <= MOST_SETS or (number, one.name) in found:
            raise NoChain(f"one set too many: {number}")
        found[number, one.name] = one
        count = max(count, number)
    try:
        return [(found[i, RESULTS], found[i, MESSAGE], found[i, SEAL]) for i in range(1, count + 1)]
    except KeyError:
        raise NoChain("a set that is not whole") from None


def isSlow(fields: Sequence[Field]) -> bool:
    """
    Whether there is too much in a header section to be checked.
    """
    signed = [one for one in fields if one.name in (b"dkim-signature", MESSAGE, SEAL)]
    if len(fields) > MOST_FIELDS or len(signaturesIn(fields)) > MOST_SIGNATURES:
        return True
    return any(
        len(one.octets) > MOST_OCTETS or one.octets.count(b":") > MOST_NAMES for one in signed
    )


def isSlowText(octets: bytes, checks: int) -> bool:
    """
    Whether a message has so many blanks and lines, or so long runs of blanks, that it is
    slow to be checked.

    @param checks: so often its text is looked at.
    """
    pieces = sum(octets.count(one) for one in (b" ", b"\t", b"\n"))
    if pieces > MOST_PIECES or pieces * checks > MOST_TIMES_PIECES:
        return True
    steps = 0
    for run in _LONG_BLANKS.finditer(octets):
        if not octets.startswith((b"\r\n", b"\n"), run.end()):
            steps += checks * (run.end() - run.start()) ** 2
    return steps > MOST_BLANK_STEPS
