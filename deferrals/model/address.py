"""
Mail addresses: the Mailbox and Path of RFC 5321 §4.1.2, with RFC 6531's UTF-8.

The parser reads a path from the front of a command's arguments in one pass,
without backtracking.  Source routes are read and dropped (RFC 5321 §4.1.1.3).
Strings here are text; octets that are not UTF-8 never become an address, and
neither do characters that cannot be seen or end a line
(L{deferrals.model.characters}).

Where they are not read strictly, paths are read as the servers around read them:
dots stand anywhere in a local part, a path needs no brackets, and has blanks
inside of them.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata

import attrs
import idna

from deferrals.model.characters import UNFIT, WORD

__all__ = ["AddressError", "Mailbox"]

#: RFC 5321 §4.5.3.1.1 asks for 64 at least, and for no limit where possible: the
#: reverse paths of mailing lists are longer.  This much a file name can carry.
MAX_LOCAL_OCTETS = 254
MAX_DOMAIN_OCTETS = 255  # RFC 5321 §4.5.3.1.2
MAX_LABEL_OCTETS = 63  # RFC 1035 §2.3.4

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-" + WORD
_QUOTED = rf'"(?:[^"\\{UNFIT}]|\\[\x20-\x7e])*"'
_LOCAL = re.compile(rf"[{_ATEXT}.]+|{_QUOTED}")
_STRICT_LOCAL = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*|{_QUOTED}")
_DOMAIN = re.compile(rf"[A-Za-z0-9{WORD}_](?:[A-Za-z0-9{WORD}._\-]*)|\[[^\[\]\\\s]*\]")
_ROUTE = re.compile(r"@[^:<>\s\"]*:")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?")
_ROUTING = frozenset("%!@")
_BLANKS = re.compile(r"[ \t]*")
_DOT_ATOM = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")


class AddressError(ValueError):
    """
    The text is no address.
    """


def comparable(local: str) -> str:
    """
    What two spellings of one local part, or of one login, have in common.  All
    that compares addresses compares this: NFC, in lower case.  More is not
    folded: C{stra\xdfe} and C{strasse} are two people.
    """
    if local.isascii():
        return local.lower()
    # of what is lower case, some could still be composed
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())


def normalDomain(domain: str) -> str:
    """
    One spelling for one domain: lower case, A-labels (RFC 5891, mapped by
    UTS 46), no trailing dot; an address literal in its canonical form.

    @raise AddressError: it is no domain and no address literal.
    """
    if domain.startswith("["):
        return _normalLiteral(domain)
    if len(domain.encode("utf-8")) > MAX_DOMAIN_OCTETS:
        raise AddressError("domain too long")
    if not domain.isascii():
        domain = _asciiDomain(domain)
    domain = domain.lower().removesuffix(".")
    if not domain or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise AddressError("bad domain")
    return domain


def _asciiDomain(domain: str) -> str:
    """
    A-labels also for symbols, which registries sell although RFC 5892 leaves them
    out: C{i\u2764.ws}.
    """
    try:
        labels = [_asciiLabel(label) for label in idna.uts46_remap(domain, False).split(".")]
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError(f"bad international domain: {error}") from None
    if any(len(label) > MAX_LABEL_OCTETS for label in labels):
        raise AddressError("label too long")
    return ".".join(labels)


def _asciiLabel(label: str) -> str:
    if label.isascii():
        return label
    symbols = {c for c in label if unicodedata.category(c).startswith("S")}
    if not symbols:
        return idna.encode(label).decode("ascii")
    rest = "".join(c for c in label if c not in symbols)
    if not rest.isascii():
        idna.encode(rest)
    return "xn--" + label.encode("punycode").decode("ascii")


def _normalLiteral(literal: str) -> str:
    """
    C{[192.0.2.1]} or C{[IPv6:2001:db8::1]} (RFC 5321 §4.1.3).
    """
    inside = literal[1:-1]
    if "%" in inside:  # an IPv6 scope could be anything, and means nothing elsewhere
        raise AddressError("bad address literal")
    try:
        if inside[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inside[5:])}]"
        return f"[{ipaddress.IPv4Address(inside)}]"
    except ValueError:
        raise AddressError("bad address literal") from None


def _unquoted(local: str) -> str:
    if not local.startswith('"'):
        return local
    return re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.S)


@attrs.frozen(cache_hash=True)
class Mailbox:
    """
    One address.

    @ivar local: the local part without quoting, as the client wrote it.
    @ivar domain: the domain in its one spelling (L{normalDomain}); empty for
        the bare C{postmaster} that every server must know (RFC 5321 §4.5.1).
    @ivar shownDomain: the domain as the client wrote it.
    """

    local: str
    domain: str
    shownDomain: str = attrs.field(default="", eq=False)

    @classmethod
    def parse(cls, text: str) -> Mailbox:
        """
        Read C{local@domain}, the whole text.

        @raise AddressError: it is none.
        """
        local = _LOCAL.match(text)
        if local is None:
            raise AddressError("bad local part")
        if len(local[0].encode("utf-8")) > MAX_LOCAL_OCTETS:
            raise AddressError("local part too long")
        rest = text[local.end() :]
        domain = _DOMAIN.fullmatch(rest, 1) if rest.startswith("@") else None
        if domain is None:
            raise AddressError("bad domain")
        return cls(_unquoted(local[0]), normalDomain(domain[0]), domain[0])

    @property
    def key(self) -> str:
        """
        What two spellings of one mailbox have in common: see L{comparable}.
        """
        return f"{comparable(self.local)}@{self.domain}"

    @property
    def needsUTF8(self) -> bool:
        """
        Whether only SMTPUTF8 can carry it as it was written (RFC 6531 §3.2).
        """
        return not (self.local.isascii() and self.shownDomain.isascii())

    def __str__(self) -> str:
        return _text(self.local, self.shownDomain or self.domain)


def separator(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}: what may stand between a mailbox's
    name and a subaddress.
    """
    if len(value) > 1 or (value and not value.isascii()) or value in ("/", "@"):
        raise ValueError('one character such as "+", or none')


def splitSubaddress(address: Mailbox, mark: str) -> tuple[Mailbox, str]:
    """
    @param mark: what begins a subaddress; empty, where there is none.
    @return: the address without its subaddress, and that one; the same and nothing,
        where it has none, or would be nothing without it.
    """
    local, found, detail = address.local.partition(mark) if mark else (address.local, "", "")
    if not (found and local):
        return address, ""
    return attrs.evolve(address, local=local), detail


def isRouted(address: Mailbox) -> bool:
    """
    Whether a mail server behind this one could take the local part for another
    address (C{victim%outside.example}, C{outside.example!victim}, an C{@} within
    quotes), for a program (C{|}) or for a file (C{/}): the sender, and not the
    server, would say where the mail goes (RFC 5321 §3.3, §F.2).
    """
    local = address.local
    return not _ROUTING.isdisjoint(local) or local.startswith(("|", "/"))


@functools.lru_cache(maxsize=4096)
def _text(local: str, domain: str) -> str:
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    return f"{local}@{domain}" if domain else local


@functools.lru_cache(maxsize=4096)
def takePath(text: str, bare: bool = False, strict: bool = False) -> tuple[Mailbox | None, str]:
    """
    Take a path from the front of C{text}.  Remembered: the same paths come again
    and again.

    @param bare: whether C{<postmaster>} without a domain is a path
        (RFC 5321 §4.1.1.3: for RCPT only).
    @param strict: whether only RFC 5321's grammar counts.
    @return: the mailbox, C{None} for the null path C{<>}; and the rest of the
        text behind the path.
    @raise AddressError: there is no valid path.
    """
    start, isOpen = _opened(text, strict)
    if isOpen and text[start : start + 1] == ">":
        return None, text[start + 1 :]
    route = _ROUTE.match(text, start)
    if route is not None:
        start = route.end()
    local = (_STRICT_LOCAL if strict else _LOCAL).match(text, start)
    if local is None:
        raise AddressError("bad local part")
    end = local.end()
    if bare and local[0].lower() == "postmaster" and text[end : end + 1] != "@":
        return Mailbox("postmaster", ""), text[_closed(text, end, isOpen, strict) :]
    domain = _DOMAIN.match(text, end + 1) if text[end : end + 1] == "@" else None
    if domain is None:
        raise AddressError("bad address")
    mailbox = Mailbox.parse(text[start : domain.end()])
    return mailbox, text[_closed(text, domain.end(), isOpen, strict) :]


def _opened(text: str, strict: bool) -> tuple[int, bool]:
    """
    @return: where the path begins; and whether that is behind a bracket.
    """
    if strict:
        if not text.startswith("<"):
            raise AddressError("an address stands in angle brackets")
        return 1, True
    isOpen = text.startswith("<")
    return _behindBlanks(text, 1) if isOpen else 0, isOpen


def _closed(text: str, end: int, isOpen: bool, strict: bool) -> int:
    """
    @param end: where the domain ends.
    @return: where the path ends.
    """
    if isOpen:
        end = end if strict else _behindBlanks(text, end)
        if text[end : end + 1] == ">":
            return end + 1
    elif text[end : end + 1] in ("", " ", "\t"):
        return end
    raise AddressError("bad address")


def _behindBlanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    return start if blanks is None else blanks.end()
