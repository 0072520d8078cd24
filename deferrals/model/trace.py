"""
The trace fields that this server puts in front of a message (RFC 5321 §4.4).
"""

from __future__ import annotations

import datetime
import email.utils

from deferrals.model.envelope import Envelope
from deferrals.model.text import cleaned, oneLine
from deferrals.model.verdict import Marks

#: A field's text is folded before it gets longer than this (RFC 5322 §2.1.1).
_FOLD_OCTETS = 76


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
    lines = [f"Received: from {cleaned(client.helo) or 'unknown'} ([{literal}]{user})"]
    if client.tls is not None:
        lines.append(f"\t(using {cleaned(client.tls)})")
    lines.append(f"\tby {hostname} with {client.protocol} id {envelope.id}")
    if recipient is not None:
        lines.append(f"\tfor <{cleaned(recipient)}>")
    lines[-1] += ";"
    lines.append(f"\t{rfc5322Date(envelope.received)}")
    return "".join(line + "\r\n" for line in lines).encode("utf-8")


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
    lines, line = [], f"{name}:"
    for word in words:
        if len(line) + 1 + len(word) > _FOLD_OCTETS and line.strip():
            lines.append(line)
            line = ""
        line += f" {word}"
    return ("\r\n".join([*lines, line]) + "\r\n").encode("utf-8")


def marked(marks: Marks, head: bytes) -> tuple[bytes, bytes]:
    """
    Apply a cohort's marks to a message.

    @param head: the message's header section without the empty line.
    @return: the fields to put in front, and the header section as this cohort
        gets it (the same object, where nothing in it changes).
    """
    front = b"".join(field(name, value) for name, value in marks.headers)
    if not (marks.removed or marks.subjectPrefix):
        return front, head
    removed = {name.lower().encode("ascii", "replace") for name in marks.removed}
    prefix = oneLine(marks.subjectPrefix).encode("utf-8")
    out = []
    for line in _unfoldedLines(head):
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon and name in removed:
            continue
        if colon and prefix and name == b"subject":
            line, prefix = b"Subject: " + prefix + value.lstrip(b" \t"), b""
        out.append(line)
    if prefix:
        out.append(b"Subject: " + prefix.rstrip())
    return front, b"\r\n".join(out)


def _unfoldedLines(head: bytes) -> list[bytes]:
    """
    The fields of a header section, each with its folded lines.
    """
    fields: list[bytes] = []
    for line in head.split(b"\r\n") if head else []:
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1] += b"\r\n" + line
        else:
            fields.append(line)
    return fields
