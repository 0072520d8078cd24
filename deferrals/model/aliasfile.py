"""
Files of aliases, as sendmail and Postfix have them.

C{aliases}: C{name: member, member}; a line that begins with a blank goes on with the
one before, C{#} begins a comment line, quotes keep blanks and colons in a name.
C{virtual}: C{name@domain member, member}, C{@domain member} for all other names of a
domain, C{name member} for any domain; a member C{@domain} keeps the name.

A member is an address, a name (of the alias' own domain), C{\\name}, or
C{:include:FILE} for the addresses in a file.  Programs (C{|command}) and files
(C{/path}) are not: that is for C{deliver}.  What cannot be read is an error of its
line, and of its alias alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from deferrals.model.address import AddressError, Mailbox, comparable, normalDomain

#: How a file is written.
Format = Literal["aliases", "virtual"]

#: What begins a member that stands for the addresses in a file.
INCLUDE = ":include:"

_BLANKS = " \t\r"

#: Members as nearly all lines have them.
_SIMPLE = re.compile(
    r"[\w.+=\-]+(?:@[A-Za-z0-9.\-]+)?(?:[ \t]*,[ \t]*[\w.+=\-]+(?:@[A-Za-z0-9.\-]+)?)*", re.A
)

#: The parts of a list of members: quoted text, what stands in brackets, comments, commas.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|<[^<>]*>|\((?:[^()\\]|\\.)*\)|,|\\.|[^",()<>\\]+|.', re.S)

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*:(.*)', re.S)
_ESCAPED = re.compile(r"\\(.)", re.S)


@attrs.define
class Book:
    """
    What a file says.

    @ivar members: by alias: addresses, names, C{@domain} and C{:include:FILE}.
    @ivar faults: why an alias cannot be used, by alias.
    @ivar problems: all that is wrong, each with the number of its line.
    """

    members: dict[str, Sequence[str]] = attrs.field(factory=dict)
    faults: dict[str, str] = attrs.field(factory=dict)
    problems: list[tuple[int, str]] = attrs.field(factory=list)

    def add(self, number: int, alias: str, text: str) -> None:
        """
        @param number: of the line.
        @param text: the members.
        """
        if alias in self.members or alias in self.faults:
            self.problems.append((number, f"{alias} is there before: the first one counts"))
            return
        try:
            self.members[alias] = readMembers(text)
        except ValueError as error:
            self.faults[alias] = f"line {number}: {error}"
            self.problems.append((number, str(error)))


def readBook(text: str, form: Format) -> Book:
    """
    Read a whole file.
    """
    book = Book()
    split = _splitAlias if form == "aliases" else _splitVirtual
    for number, line in _logicalLines(text):
        try:
            if line[0] in _BLANKS:
                raise ValueError("a line that goes on with one before it: there is none")
            alias, members = split(line)
        except ValueError as error:
            book.problems.append((number, str(error)))
        else:
            if "*" in alias and not line.startswith('"'):
                book.problems.append((number, _literal(alias, form)))
            book.add(number, alias, members)
    return book


def _literal(alias: str, form: Format) -> str:
    instead = "" if form == "aliases" else ": @domain is for all of a domain"
    return f"the * in {alias[:100]} stands for itself{instead}"


def _logicalLines(text: str) -> Iterator[tuple[int, str]]:
    """
    @return: the lines, each with those that go on with it, and its number.
    """
    begun, pieces = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(_BLANKS)
        if not stripped or stripped[0] == "#":
            continue
        if pieces and line[0] in _BLANKS:
            pieces.append(line)
            continue
        if pieces:
            yield begun, " ".join(pieces)
        begun, pieces = number, [line]
    if pieces:
        yield begun, " ".join(pieces)


def _splitAlias(line: str) -> tuple[str, str]:
    """
    @raise ValueError: it is no C{name: members}.
    """
    quoted = _QUOTED_NAME.match(line)
    if quoted is not None:
        return comparable(_ESCAPED.sub(r"\1", quoted[1])), quoted[2]
    name, colon, members = line.partition(":")
    name = name.strip(_BLANKS)
    if not (name and colon) or any(blank in name for blank in _BLANKS):
        raise ValueError("expected name: member, member")
    if "@" in name:
        raise ValueError(f"expected a name, or format = virtual: {name[:100]}")
    return comparable(name), members


def _splitVirtual(line: str) -> tuple[str, str]:
    """
    @raise ValueError: it is no C{name@domain members}.
    """
    quoted = re.match(r'"(?:[^"\\]|\\.)*"[^ \t]*', line)
    name = quoted[0] if quoted else line.split(None, 1)[0]
    members = line[len(name) :]
    if not members.strip(_BLANKS):
        raise ValueError("expected name@domain member, member")
    try:
        return _key(name), members
    except AddressError as error:
        raise ValueError(f"{name[:100]} is no address: {error}") from None


def _key(name: str) -> str:
    """
    An alias as it is looked up.

    @raise AddressError: it is none.
    """
    local, at, domain = name.rpartition("@")
    if not at:
        return comparable(_unquoted(domain))
    if not local:
        return f"@{normalDomain(domain)}"
    return Mailbox.parse(name).key


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return text if quoted is None else _ESCAPED.sub(r"\1", quoted[1])


def readMembers(text: str) -> Sequence[str]:
    """
    Read what stands behind an alias, or in a file that is included.

    @raise ValueError: one of them is no member.
    """
    text = text.strip(_BLANKS).removesuffix(",").rstrip(_BLANKS)
    if _SIMPLE.fullmatch(text):
        if "," not in text:
            return (text,)
        return tuple(one.strip(_BLANKS) for one in text.split(","))
    return tuple(filter(None, map(readMember, _listed(text))))


def readIncluded(text: str) -> Sequence[str]:
    """
    Read a file that is included: members, in lines or with commas between.

    @raise ValueError: one of them is no member.
    """
    found: list[str] = []
    for line in text.split("\n"):
        line = line.strip(_BLANKS)
        if line and not line.startswith("#"):
            found += readMembers(line)
    return found


def _listed(text: str) -> Iterator[str]:
    """
    What stands between commas, without comments.
    """
    parts: list[str] = []
    for part in [*_PART.findall(text), ","]:
        if part == ",":
            yield "".join(parts).strip(_BLANKS)
            parts = []
        elif not part.startswith("(") or len(part) == 1:
            parts.append(part)


def readMember(text: str) -> str:
    """
    Read one member.

    @return: empty, where there is nothing.
    @raise ValueError: it is no member.
    """
    bracketed = re.search(r"<([^<>]*)>\Z", text)
    if bracketed is not None:
        text = bracketed[1].strip(_BLANKS)
    whole = _unquoted(text)
    if whole.startswith("|"):
        raise ValueError("a program is no member: give it a rule with deliver = pipe")
    if whole.startswith("/"):
        raise ValueError("a file is no member: give it a rule with deliver = file or maildir")
    if whole.lower().startswith(INCLUDE):
        path = whole[len(INCLUDE) :].strip(_BLANKS)
        if not path.startswith("/"):
            raise ValueError(f"expected {INCLUDE}/path")
        return INCLUDE + path
    text = text.removeprefix("\\")
    if text.startswith("@"):
        return f"@{_domain(text[1:])}"
    if text:
        _check(text)
    return text


def _domain(text: str) -> str:
    try:
        return normalDomain(text)
    except AddressError as error:
        raise ValueError(f"@{text[:100]} is no domain: {error}") from None


def _check(text: str) -> None:
    """
    @raise ValueError: it is no address, and no name.
    """
    isWhole = "@" in text.rpartition('"')[2]
    try:
        Mailbox.parse(text if isWhole else f"{text}@name.invalid")
    except AddressError as error:
        raise ValueError(f"{text[:100]} is no address: {error}") from None


def mailboxOf(member: str, alias: Mailbox) -> Mailbox:
    """
    A member as the address that is meant.

    @param alias: the address that was looked up.
    @raise AddressError: the two make none.
    """
    if member.startswith("@"):
        return Mailbox(alias.local, member[1:])
    if "@" in member.rpartition('"')[2]:
        return Mailbox.parse(member)
    found = Mailbox.parse(f"{member}@name.invalid")
    return Mailbox(found.local, alias.domain, alias.shownDomain)
