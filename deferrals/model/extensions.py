"""
MAIL FROM and RCPT TO as ESMTP extends them: one table says which parameter
belongs to which EHLO keyword, and what its value looks like.

What the table does not know, or the session did not offer, is 555 5.5.4
(RFC 5321 §4.1.1.11); a value that is missing, superfluous or malformed is
501 5.5.4.  But a parameter that only says more about the message (ENVID, ORCPT,
AUTH) and cannot be read is dropped: no mail is worth less without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import attrs

from deferrals.errors import PeerError
from deferrals.model.address import AddressError, Mailbox, takePath
from deferrals.model.envelope import Form, Parameters, Recipient
from deferrals.model.reply import (
    R501_RECIPIENT_SYNTAX,
    R501_SENDER_SYNTAX,
    R501_SYNTAX,
    R553_NEEDS_UTF8,
    R555_UNKNOWN_PARAMETER,
    Reply,
)

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_UNITEXT = re.compile(r"(?:[!-*,-<>-\[\]-~\u0080-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})*")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_HEX_LOWER = re.compile(r"\+[0-9A-Fa-f]{2}")
_WORD = re.compile(r'(?:"[^"]*"|[^ \t])+')
_UNICODE_POINT = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})

#: More than any message has.
_SIZE_DIGITS = 20

MAX_ENVID_OCTETS = 100  # RFC 3461 §4.4
MAX_ORCPT_OCTETS = 500  # RFC 3461 §4.2


def decodeXtext(text: str) -> str:
    """
    RFC 3461 §4.

    @raise ValueError: it is no xtext.
    """
    text = _HEX_LOWER.sub(lambda match: match[0].upper(), text)
    if not _XTEXT.fullmatch(text):
        raise ValueError("not xtext")
    decoded = _HEX.sub(lambda match: chr(int(match[1], 16)), text)
    if any(character < " " or character > "~" for character in decoded):
        raise ValueError("xtext hides a control character")
    return decoded


def encodeXtext(text: str) -> str:
    """
    The inverse of L{decodeXtext}, for what is sent to the next hop.
    """
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def _size(value: str) -> int:
    digits = value.lstrip("0") or value[-1:]
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("digits")
    return int(digits[:_SIZE_DIGITS])


def _oneOf(*allowed: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.upper() not in allowed:
            raise ValueError("not a known value")
        return value.upper()

    return read


def _envid(value: str) -> str:
    if not 0 < len(value) <= MAX_ENVID_OCTETS:
        raise ValueError("empty, or too long")
    return decodeXtext(value)


def _auth(value: str) -> str:
    text = decodeXtext(value)
    if text != "<>":
        Mailbox.parse(text.removeprefix("<").removesuffix(">"))
    return text


def _notify(value: str) -> frozenset[str]:
    words = frozenset(value.upper().removesuffix(",").split(","))
    if words != {"NEVER"} and not _NOTIFY.issuperset(words):
        raise ValueError("NEVER, or some of SUCCESS, FAILURE, DELAY")
    return words


def _orcpt(value: str) -> str:
    kind, mark, address = value.partition(";")
    if not mark or not _KEYWORD.fullmatch(kind) or not address or len(value) > MAX_ORCPT_OCTETS:
        raise ValueError("address type and address")
    if kind.lower() == "utf-8":  # RFC 6533 §3
        if not _UNITEXT.fullmatch(address):
            raise ValueError("not utf-8-addr-unitext")
        points = [int(point, 16) for point in _UNICODE_POINT.findall(address)]
        if any(point < 0x20 or point > 0x10FFFF or 0xD800 <= point < 0xE000 for point in points):
            raise ValueError("no such character")
        return f"utf-8;{_UNICODE_POINT.sub(lambda match: chr(int(match[1], 16)), address)}"
    return f"{kind.lower()};{decodeXtext(address)}"


@attrs.frozen
class _Parameter:
    """
    @ivar keyword: the EHLO keyword that offers it.
    @ivar field: where the value goes.
    @ivar read: reads the value, or raises C{ValueError}; C{None} where there
        must be no value, which then stands for C{value}.
    @ivar isTold: whether it only tells more: what cannot be read is dropped.
    @ivar mayRepeat: whether it may be there again; the last one counts.
    """

    keyword: str
    field: str
    read: Callable[[str], Any] | None
    value: Any = True
    isTold: bool = False
    mayRepeat: bool = False


_MAIL = {
    "SIZE": _Parameter("SIZE", "size", _size, mayRepeat=True),
    "BODY": _Parameter(
        "8BITMIME", "body", _oneOf("7BIT", "8BITMIME", "BINARYMIME"), mayRepeat=True
    ),
    "SMTPUTF8": _Parameter("SMTPUTF8", "smtputf8", None, mayRepeat=True),
    "RET": _Parameter("DSN", "ret", _oneOf("FULL", "HDRS")),
    "ENVID": _Parameter("DSN", "envid", _envid, isTold=True),
    "AUTH": _Parameter("AUTH", "auth", _auth, isTold=True),
    "REQUIRETLS": _Parameter("REQUIRETLS", "requireTLS", None),
    "DEFERRALS": _Parameter("DEFERRALS", "form", None, Form.DEFERRALS),
    "PRDR": _Parameter("PRDR", "form", None, Form.PRDR),
    "EXDATA": _Parameter("XEXDATA", "form", None, Form.EXDATA),
}
_RCPT = {
    "NOTIFY": _Parameter("DSN", "notify", _notify),
    "ORCPT": _Parameter("DSN", "orcpt", _orcpt, isTold=True),
}


def _refuse(reply: Reply, text: str) -> PeerError:
    return PeerError(text, attrs.evolve(reply, text=text))


def _parameters(
    text: str, table: dict[str, _Parameter], offered: Collection[str]
) -> dict[str, Any]:
    """
    Read the parameters behind a path.

    @raise PeerError: with the reply that says what is wrong.
    """
    if text and not text.startswith((" ", "\t")):
        raise _refuse(R501_SYNTAX, "a blank separates the address from its parameters")
    found: dict[str, Any] = {}
    for word in _WORD.findall(text):
        keyword, mark, value = word.partition("=")
        parameter = table.get(keyword.upper())
        if parameter is not None and parameter.field == "auth" and "AUTH" not in offered:
            continue  # who relays writes it to every server
        if parameter is None or parameter.keyword not in offered:
            if not _KEYWORD.fullmatch(keyword):
                raise _refuse(R501_SYNTAX, "malformed parameter")
            raise PeerError(keyword, R555_UNKNOWN_PARAMETER)
        if parameter.field in found and not parameter.mayRepeat:
            raise _refuse(R501_SYNTAX, _twice(keyword.upper(), parameter, found[parameter.field]))
        found[parameter.field] = _value(keyword.upper(), parameter, bool(mark), value)
        if found[parameter.field] == "BINARYMIME" and "BINARYMIME" not in offered:
            raise _refuse(R501_SYNTAX, "BODY=BINARYMIME is not offered")
    return found


def _twice(keyword: str, parameter: _Parameter, before: object) -> str:
    if isinstance(before, Form) and before is not parameter.value:
        first, second = sorted((before.name, keyword))
        return f"{first} and {second} exclude each other"
    return f"{keyword} given twice"


def _value(keyword: str, parameter: _Parameter, hasValue: bool, value: str) -> Any:
    if parameter.read is None:
        if hasValue:
            raise _refuse(R501_SYNTAX, f"{keyword} takes no value")
        return parameter.value
    try:
        return parameter.read(value)
    except ValueError:
        if value and parameter.isTold:
            return None
        raise _refuse(R501_SYNTAX, f"bad value of {keyword}") from None


def _path(
    rest: str, word: str, syntax: Reply, bare: bool, strict: bool
) -> tuple[Mailbox | None, str]:
    if rest[: len(word)].upper() != word:
        raise _refuse(R501_SYNTAX, f"expected {word}<address>")
    try:
        return takePath(rest[len(word) :].lstrip(" \t"), bare, strict)
    except AddressError as error:
        raise PeerError(str(error), syntax) from None


def parseMail(
    rest: str, offered: Collection[str], strict: bool = False
) -> tuple[Mailbox | None, Parameters]:
    """
    Read what stands behind C{MAIL}.

    @param offered: the EHLO keywords of this session, upper case.
    @param strict: whether a path must be as RFC 5321 has it.
    @return: the reverse path (C{None} for C{<>}) and the parameters.
    @raise PeerError: with the reply that says what is wrong.
    """
    sender, tail = _path(rest, "FROM:", R501_SENDER_SYNTAX, False, strict)
    parameters = Parameters(**_parameters(tail, _MAIL, offered))
    if sender is not None and sender.needsUTF8 and not parameters.smtputf8:
        raise PeerError("UTF-8 in an address", R553_NEEDS_UTF8)
    return sender, parameters


def parseRcpt(
    rest: str, offered: Collection[str], smtputf8: bool, strict: bool = False
) -> Recipient:
    """
    Read what stands behind C{RCPT}.

    @param smtputf8: whether this transaction's MAIL FROM carried SMTPUTF8.
    @param strict: whether a path must be as RFC 5321 has it.
    @raise PeerError: with the reply that says what is wrong.
    """
    address, tail = _path(rest, "TO:", R501_RECIPIENT_SYNTAX, True, strict)
    if address is None:
        raise PeerError("the null path is no recipient", R501_RECIPIENT_SYNTAX)
    recipient = Recipient(address, **_parameters(tail, _RCPT, offered))
    if address.needsUTF8 and not smtputf8:
        raise PeerError("UTF-8 in an address", R553_NEEDS_UTF8)
    return recipient
