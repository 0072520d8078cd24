"""
What is found out about the origin of a message as it came in: SPF, DKIM, ARC and DMARC;
and how it is written into C{Authentication-Results} (RFC 8601), and read there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import attrs

from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult

#: How long DNS has for a message's policies, and for SPF; keys have as long, in seconds.
DNS_SECONDS = 10.0

#: What a check comes to here (RFC 8601 §2.7 has more).
Result = Literal["none", "pass", "fail", "permerror", "temperror"]

#: What a domain wants done with what is not its own (RFC 7489 §6.3).
DMARCPolicy = Literal["none", "quarantine", "reject"]

#: What may be written of a domain or a selector.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})")


@attrs.frozen
class Signature:
    """
    One DKIM signature.

    @ivar domain: who has signed; empty where that cannot be read.
    @ivar selector: with which key, likewise.
    """

    result: Result
    domain: str = ""
    selector: str = ""


@attrs.frozen
class Seal:
    """
    One set of a chain of seals.

    @ivar domain: who has sealed, lower case.
    @ivar results: what it says that it has found: the value of
        C{ARC-Authentication-Results}, octets as they came.
    """

    domain: str
    results: bytes


@attrs.frozen
class Chain:
    """
    A chain of seals (ARC).

    @ivar result: whether it holds.
    @ivar seals: its sets, the first one first; none where it does not hold.
    """

    result: Result = "none"
    seals: tuple[Seal, ...] = ()


@attrs.frozen
class DMARC:
    """
    What the policies of the author's domain come to.

    @ivar domain: the author's; empty where there is none, or where there are several.
    @ivar policy: what is wanted where the result is C{"fail"} or C{"permerror"}.
    @ivar problem: what is wrong, for the two errors; else empty.
    """

    result: Result = "none"
    domain: str = ""
    policy: DMARCPolicy = "none"
    problem: str = ""


@attrs.frozen
class Authentication:
    """
    What was found out about a message.

    @ivar spf: C{None} where there was nothing to check: the client is inside.
    @ivar dkim: one for each signature.
    @ivar arc: the chain of seals.
    @ivar dmarc: C{None} where it was not asked for: the client is inside, or what judges
        it is not installed.
    @ivar aligned: the domains proved by SPF or by a signature.
    @ivar unchecked: why signatures and seals were not checked; empty where they were.
    """

    spf: Finding | None = None
    dkim: tuple[Signature, ...] = ()
    arc: Chain = Chain()
    dmarc: DMARC | None = None
    unchecked: str = ""
    aligned: frozenset[str] = attrs.field(init=False)

    @aligned.default
    def _aligned(self) -> frozenset[str]:
        found = {one.domain.lower() for one in self.dkim if one.result == "pass"}
        if self.spf is not None and self.spf.result is SPFResult.PASS:
            found.add(self.spf.domain.lower())
        return frozenset(filter(None, found))

    def words(self, hostname: str) -> list[str]:
        """
        @param hostname: this server's name.
        @return: what C{Authentication-Results} says (RFC 8601 §2.2), in parts between
            which there is a semicolon.
        """
        parts = [hostname]
        if self.spf is not None:
            parts.append(f"spf={self.spf.result.value}{_about('smtp.mailfrom', self.spf.domain)}")
        parts += [
            f"dkim={one.result}{_about('header.d', one.domain)}{_about('header.s', one.selector)}"
            for one in self.dkim
        ] or ["dkim=none"]
        parts.append(f"arc={self.arc.result}")
        if self.dmarc is not None:
            about = _about("header.from", self.dmarc.domain)
            parts.append(f"dmarc={self.dmarc.result}{about}")
        return parts


def _about(what: str, name: str) -> str:
    return f" {what}={name}" if _NAME.fullmatch(name) else ""


# What another server has written.


#: No more of what a sealer says is looked at.
MOST_RESULTS_OCTETS = 8 * 1024

#: A comment's marks, a quoted text, the end of a statement; and what is between.
_PIECE = re.compile(r'\\.|"(?:[^"\\]|\\.)*"|[();]|[^\\"();]+|["\\]', re.S)

_STATEMENT = re.compile(r"\s*([a-z][a-z0-9-]*)\s*(?:/\s*\d+\s*)?=\s*([a-z]+)(?![a-z0-9-])", re.I)

_PROPERTY = re.compile(
    r'(?<![!-~])([a-z]+)\s*\.\s*([a-z0-9-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]+)', re.I | re.S
)


@attrs.frozen
class MethodResult:
    """
    What was said of one method.

    @ivar properties: by C{type.name}, all lower case; the first one of a name counts.
    """

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()

    def domain(self, *names: str) -> str:
        """
        @return: the domain that the first of these properties has that is there, lower
            case; empty where there is none.
        """
        known = dict(self.properties)
        value = next((known[name] for name in names if name in known), "")
        return value.rpartition("@")[2].lower().removesuffix(".")


def statements(value: bytes) -> list[MethodResult]:
    """
    @param value: of C{Authentication-Results}, or C{ARC-Authentication-Results}.
    @return: what can be read in it; nothing, where it is very long.
    """
    if len(value) > MOST_RESULTS_OCTETS:
        return []
    parts = list(_withoutComments(value.decode("utf-8", "replace")))
    found = ((_STATEMENT.match(part), part) for part in parts)
    return [
        MethodResult(match[1].lower(), match[2].lower(), _properties(part[match.end() :]))
        for match, part in found
        if match
    ]


def _properties(text: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for kind, name, value in _PROPERTY.findall(text):
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.S)
        found.setdefault(f"{kind}.{name}".lower(), value)
    return tuple(found.items())


def _withoutComments(text: str) -> Iterator[str]:
    """
    The parts between semicolons; a blank in place of each comment.
    """
    part: list[str] = []
    depth = 0
    for piece in _PIECE.findall(text):
        if piece in ("(", ")"):
            depth = max(0, depth + (1 if piece == "(" else -1))
            part.append(" ")
        elif depth:
            continue
        elif piece == ";":
            yield "".join(part)
            part = []
        else:
            part.append(piece)
    if not depth:  # behind a comment without end nothing can be believed
        yield "".join(part)


def vouches(results: bytes, author: str) -> bool:
    """
    @param results: what a sealer has said.
    @param author: the domain of a message's author.
    @return: whether it has found this domain proved: by DMARC; or, where it says nothing
        of that, by a signature of the domain or of one above it.
    """
    found = statements(results)
    judged = [one for one in found if one.method == "dmarc" and one.result != "none"]
    if judged:
        # One that says this and that has let a stranger write in it.
        ofAuthor = {one.result for one in judged if one.domain("header.from") == author}
        return ofAuthor == {"pass"}
    signers = [
        one.domain("header.d", "header.i")
        for one in found
        if one.method == "dkim" and one.result == "pass"
    ]
    return any("." in one and f".{author}".endswith(f".{one}") for one in signers)
