"""
The trace fields that this server puts in front of a message (RFC 5321 §4.4).
"""

from __future__ import annotations

import datetime
import email.utils
import re

from deferrals.model.address import AddressError, normalDomain
from deferrals.model.envelope import Client, Envelope
from deferrals.model.networks import mayHaveName
from deferrals.model.text import cleaned, oneLine
from deferrals.model.verdict import Marks

#: A field's text is folded before it gets longer than this (RFC 5322 §2.1.1).
_FOLD_OCTETS = 76

#: So many forms of one header section are kept at once.
_MAX_HEADS = 8

_BETWEEN_FIELDS = re.compile(rb"\r\n(?![ \t])")


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
    lines = [f"Received: from {_helo(client.helo)} ({named}[{literal}]{user})"]
    if client.tls is not None:
        lines.append(f"\t(using {cleaned(client.tls)})")
    lines.append(f"\tby {hostname} with {client.protocol} id {envelope.id}")
    if recipient is not None:
        lines.append(f"\tfor <{cleaned(recipient)}>")
    lines[-1] += ";"
    lines.append(f"\t{rfc5322Date(envelope.received)}")
    return "".join(line + "\r\n" for line in lines).encode("utf-8")


def _name(client: Client) -> str:
    return cleaned(client.hostname) or "unknown"


def _helo(name: str) -> str:
    """
    A name that is not ASCII would make an 8-bit mail of every one.
    """
    name = cleaned(name) or "unknown"
    if name.isascii():
        return name
    try:
        return normalDomain(name)
    except AddressError:
        return name.encode("ascii", "replace").decode("ascii")


def returnPath(envelope: Envelope) -> bytes:
    """
    The Return-Path field, CRLF included: for final delivery only.
    """
    return f"Return-Path: <{cleaned(envelope.senderText)}>\r\n".encode()


def deliveredTo(recipient: str) -> bytes:
    """
    The Delivered-To field, CRLF included (RFC 9228).
    """
    return f"Delivered-To: {cleaned(recipient)}\r\n".encode()


def field(name: str, value: str) -> bytes:
    """
    A field whose text comes from outside: no line of it can be taken for
    another field.

    @return: nothing, where the name is none.
    """
    name = "".join(c for c in name if "!" <= c <= "~" and c != ":")
    if not name:
        return b""
    words = (oneLine if name.lower() == "subject" else cleaned)(value).split(" ")
    lines, line, length, isBlank = [], [f"{name}:"], len(name) + 1, False
    for word in words:
        if length + 1 + len(word) > _FOLD_OCTETS and not isBlank:
            lines.append(" ".join(line))
            line, length, isBlank = [""], 0, True
        line.append(word)
        length += 1 + len(word)
        isBlank = isBlank and not word.strip()
    return ("\r\n".join([*lines, " ".join(line)]) + "\r\n").encode("utf-8")


class Head:
    """
    The header section of a message as its copies get it: taken apart once, and
    put together once for all copies that are marked alike.

    @ivar original: the header section without the empty line.
    """

    def __init__(self, original: bytes) -> None:
        self.original = original
        self._fields: list[bytes] | None = None
        self._found: dict[tuple[tuple[str, ...], str], bytes] = {}

    def marked(self, marks: Marks) -> bytes:
        """
        @return: the header section for this cohort; L{original} itself, where
            nothing in it changes.
        """
        key = (tuple(marks.removed), marks.subjectPrefix)
        if key == ((), ""):
            return self.original
        if key not in self._found:
            if len(self._found) >= _MAX_HEADS:
                self._found.clear()
            self._found[key] = self._changed(*key)
        return self._found[key]

    def _changed(self, names: tuple[str, ...], subject: str) -> bytes:
        if self._fields is None:
            self._fields = _unfoldedLines(self.original)
        removed = {name.lower().encode("ascii", "replace") for name in names}
        prefix = oneLine(subject).encode("utf-8")
        out = []
        for line in self._fields:
            name, colon, value = line.partition(b":")
            name = name.strip().lower()
            if colon and name in removed:
                continue
            if colon and prefix and name == b"subject":
                line, prefix = b"Subject: " + prefix + value.lstrip(b" \t"), b""
            out.append(line)
        if prefix:
            out.append(b"Subject: " + prefix.rstrip())
        return b"\r\n".join(out)


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
