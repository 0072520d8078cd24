"""
The trace fields that this server puts in front of a message (RFC 5321 §4.4).
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import re
from collections.abc import Iterable

from deferrals.model import headertext
from deferrals.model.address import AddressError, Mailbox, normalDomain
from deferrals.model.edits import edited
from deferrals.model.envelope import Client, Envelope
from deferrals.model.networks import mayHaveName
from deferrals.model.text import cleaned, oneLine
from deferrals.model.verdict import HeaderEdit, Marks

#: As much of a name, or of an address that is written out, as fits into one line.
_NAME_MOST, _ADDRESS_MOST = 255, 900

#: So many forms of one header section are kept at once.
_MAX_HEADS = 8

_BETWEEN_FIELDS = re.compile(rb"\r\n(?![ \t])")

#: What marks change in a header section: its edits, the fields that are removed, and what
#: is put in front of its Subject.
_Changes = tuple[tuple[HeaderEdit, ...], tuple[str, ...], str]

#: A longer line of a field is folded anew (RFC 5322 §2.1.1).
_LINE_MOST = 998

_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def rfc5322Date(seconds: float) -> str:
    """
    @param seconds: since the epoch.
    """
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return email.utils.format_datetime(moment)


def received(envelope: Envelope, hostname: str, recipient: str | None = None) -> bytes:
    """
    The Received field, CRLF included.

    @param hostname: this server's name.
    @param recipient: the one recipient of this copy.  A copy for several names
        none of them: it shows no recipient another one.
    """
    client = envelope.client
    literal = f"IPv6:{client.address}" if ":" in client.address else client.address
    user = " authenticated" if client.user is not None else ""
    named = f"{_name(client)} " if client.hostname or mayHaveName(client.address) else ""
    lines = [f"Received: from {asciiName(client.helo)} ({named}[{asciiName(literal)}]{user})"]
    if client.tls is not None:
        lines.append(f"\t(using {_ascii(client.tls)})")
    lines.append(f"\tby {hostname} with {client.protocol} id {envelope.id}")
    if recipient is not None:
        lines.append(f"\tfor <{_address(recipient, envelope)}>")
    lines[-1] += ";"
    lines.append(f"\t{rfc5322Date(envelope.received)}")
    return "".join(line + "\r\n" for line in lines).encode("utf-8")


def _name(client: Client) -> str:
    return asciiName(client.hostname)


def asciiName(name: str) -> str:
    """
    A host's name as it is written into a field.  One that is not ASCII would make an
    8-bit mail of every one.
    """
    name = cleaned(name) or "unknown"
    if not name.isascii():
        with contextlib.suppress(AddressError):
            return normalDomain(name)
    return _ascii(name)


def _ascii(text: str) -> str:
    return cleaned(text)[:_NAME_MOST].encode("ascii", "replace").decode("ascii")


def _address(address: str, envelope: Envelope) -> str:
    """
    An address in a trace field: in UTF-8 where the message is one of SMTPUTF8
    (RFC 6532 §3.2); otherwise its characters are written out (RFC 6533 §3).
    """
    if address.isascii() or envelope.parameters.smtputf8:
        return cleaned(address)
    return headertext.escaped(cleaned(address))[:_ADDRESS_MOST]


def returnPath(envelope: Envelope) -> bytes:
    """
    The Return-Path field, CRLF included: for final delivery only.
    """
    return f"Return-Path: <{_address(envelope.senderText, envelope)}>\r\n".encode()


def deliveredTo(recipient: str, envelope: Envelope) -> bytes:
    """
    The Delivered-To field, CRLF included (RFC 9228).
    """
    return f"Delivered-To: {_address(recipient, envelope)}\r\n".encode()


def placesBefore(fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """
    @param fields: of a header section, as they came in.
    @return: the L{keys<Mailbox.key>} of the addresses at which servers say that the message
        has been: it has gone out from there, and has come back.
    """
    values = {value.strip() for name, value in fields if name.lower() == "delivered-to"}
    return frozenset(map(_key, values)) - {""}


def _key(value: str) -> str:
    try:
        return Mailbox.parse(value).key
    except AddressError:
        return ""


def field(name: str, value: str) -> bytes:
    """
    A field whose text comes from outside: no line of it can be taken for
    another field.

    @return: nothing, where the name is none; otherwise ASCII, folded.
    """
    if not headertext.isFieldName(name):
        return b""
    text = (oneLine if name.lower() == "subject" else cleaned)(value)
    lines = headertext.lines(text, len(name) + 1)
    return (f"{name}:" + "\r\n".join(lines) + "\r\n").encode("ascii")


def asGiven(name: str, value: str) -> bytes:
    """
    A field whose text comes from a filter, which may have signed it: folded as it is,
    where no line of it can be taken for another field.

    @return: without the last line end.
    """
    first, *more = _LINE_ENDS.split(value)
    if not first.startswith((" ", "\t")):
        first = f" {first}"
    folded = [line if line[0] in " \t" else f"\t{line}" for line in more if line.strip(" \t")]
    lines = [f"{name}:{first}", *folded]
    if all(line.isascii() and _isWritten(line) for line in lines):
        return "\r\n".join(lines).encode("ascii")
    return field(name, " ".join(line.strip() for line in [first, *folded])).removesuffix(b"\r\n")


def _isWritten(line: str) -> bool:
    return len(line) <= _LINE_MOST and line.replace("\t", " ").isprintable()


class Head:
    """
    The header section of a message as its copies get it: taken apart once, and
    put together once for all copies that are marked alike.

    @ivar original: the header section without the empty line.
    """

    def __init__(self, original: bytes) -> None:
        self.original = original
        self._fields: list[bytes] | None = None
        self._found: dict[_Changes, bytes] = {}

    def marked(self, marks: Marks) -> bytes:
        """
        @return: the header section for this cohort; L{original} itself, where
            nothing in it changes.
        """
        key = (marks.edits, tuple(marks.removed), marks.subjectPrefix)
        if key == ((), (), ""):
            return self.original
        if key not in self._found:
            if len(self._found) >= _MAX_HEADS:
                self._found.clear()
            self._found[key] = self._changed(*key)
        return self._found[key]

    @property
    def fields(self) -> list[bytes]:
        """
        The fields, each with its folded lines and without its last line end.
        """
        if self._fields is None:
            self._fields = _unfoldedLines(self.original)
        return self._fields

    def _changed(
        self, edits: tuple[HeaderEdit, ...], names: tuple[str, ...], subject: str
    ) -> bytes:
        removed = {name.lower().encode("ascii", "replace") for name in names}
        prefix = oneLine(subject)
        out = []
        for line in edited(self.fields, edits, asGiven) if edits else self.fields:
            name, colon, value = line.partition(b":")
            name = name.strip().lower()
            if colon and name in removed:
                continue
            if colon and prefix and name == b"subject":
                line, prefix = _subject(prefix, value), ""
            out.append(line)
        if prefix:
            out.append(_subject(prefix, b""))
        return b"\r\n".join(out)


def _subject(prefix: str, value: bytes) -> bytes:
    """
    The Subject with something in front; it is left as it was written.
    """
    first, *more = value.split(b"\r\n")
    text = first.decode("latin-1").lstrip(" \t")
    lines = "\r\n".join(headertext.prefixed(prefix, text)).encode("latin-1")
    return b"\r\n".join([b"Subject:" + lines, *more])


def fields(marks: Marks) -> bytes:
    """
    The fields that a cohort's marks put in front of a message.
    """
    return b"".join(field(name, value) for name, value in marks.headers)


def _unfoldedLines(head: bytes) -> list[bytes]:
    """
    The fields of a header section, each with its folded lines.
    """
    return _BETWEEN_FIELDS.split(head) if head else []
