"""
8-bit mail for servers that do not offer 8BITMIME (RFC 6152 §3): the parts that have
octets above 127 are encoded anew, and header fields become encoded words (RFC 2047).
What readers decode is the same; the octets are not.

So what is signed is never changed, where that can be seen: its sender is told
instead (5.6.3).  The same holds for what is too large or too deep to be worth it, or
has such octets where no encoding reaches them.
"""

from __future__ import annotations

import binascii
import io
import re
import string
from email.errors import MessageError
from email.generator import BytesGenerator
from email.headerregistry import BaseHeader, HeaderRegistry
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP

#: A copy that is larger is not converted.
MOST_OCTETS = 16 << 20

#: Nor is one with fields that are longer where they have to be read, or with more of
#: what has to be written anew in all of them: reading them is slow.
FIELD_OCTETS, FIELDS_OCTETS = 4096, 8 << 10

#: Nor is one with more fields in parts that have such octets in their fields: each of
#: these is taken out of all, and put in again.
MOST_FIELDS = 1000

#: Nor is one with so many words that may begin another level.
MOST_LEVELS = 100

#: Nor is one with parts that has more lines that look like boundaries: the library takes
#: 80 µs for each part.
MOST_BOUNDARIES = 5000

#: Nor is one whose fields that say what parts are have more than so many octets that are no
#: letters and digits: the library takes up to 0.2 ms for each, since it reads a field again
#: each time that it is asked for.
MOST_MARKS = 10_000

_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()

_POLICY = SMTP.clone(cte_type="7bit", refold_source="none")

#: Fields whose values the library throws away where they have such octets: they are
#: encoded as text.
_UNREAD = ("date", "orig-date", "resent-date", "message-id")

_STRUCTURED, _TEXTS = HeaderRegistry(), HeaderRegistry(use_default_map=False)

#: The fields that say what a part is.
_CONTENT = re.compile(rb"(?im)^content-[a-z-]+:[^\n]*(?:\n[ \t][^\n]*)*")

_LEVEL = re.compile(rb"(?i)multipart/|message/")

#: What the library takes for a line's end in a field, and what is behind it for a new
#: field, or for the text; and other characters that no field has.
_NO_FIELD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")

#: Where a field goes on in another line: no more than the line's end is taken out
#: (RFC 5322 §2.2.3).
_FOLDING = re.compile(r"\r?\n(?=[ \t])")

#: Encodings that encode nothing.
_PLAIN = ("", "7bit", "8bit", "binary")

#: Whose signatures a change would break.
_SIGNATURES = ("DKIM-Signature", "ARC-Message-Signature", "DomainKey-Signature")


def sevenBit(octets: bytes) -> bytes | None:
    """
    Convert a message.  Blocks for as long as its size takes.

    @param octets: whose lines end with CRLF.
    @return: the same without octets above 127; C{None} where it must stay as it is.
    """
    levels = len(_LEVEL.findall(octets))
    if len(octets) > MOST_OCTETS or levels > MOST_LEVELS:
        return None
    if levels and octets.count(b"\n--") > MOST_BOUNDARIES:
        return None
    marks = 0
    for field in _CONTENT.finditer(octets):
        marks += len(field[0].translate(None, _ALPHANUMERIC))
        if len(field[0]) > FIELD_OCTETS or marks > MOST_MARKS:
            return None
    try:
        message = BytesParser(EmailMessage, policy=_POLICY).parsebytes(octets)
        if any(map(_isSigned, message.walk())):
            return None
        if not _encodeFields(message):
            return None
        for part in message.walk():
            _encodeText(part)
        if "MIME-Version" not in message:
            message["MIME-Version"] = "1.0"  # encodings mean nothing without
        file = io.BytesIO()
        BytesGenerator(file, mangle_from_=False, policy=_POLICY).flatten(message)
    except (MessageError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return None  # whatever it is, the library cannot make sense of it
    found = file.getvalue()
    return found if found.isascii() else None


def _isSigned(part: EmailMessage) -> bool:
    hasSignature = any(name in part for name in _SIGNATURES)
    return hasSignature or part.get_content_type() == "multipart/signed"


def _encodeFields(message: EmailMessage) -> bool:
    """
    Encode the fields of all parts.

    @return: whether they are such as can be, and short enough.
    """
    octets = fields = 0
    for part in message.walk():
        found = list(part.raw_items())
        raw = [str(value).encode("ascii", "surrogateescape") for _, value in found]
        if any(_NO_FIELD.search(one.decode("utf-8", "surrogateescape")) for one in raw):
            return False
        anew = [value for value in raw if not value.isascii()]
        if not anew:
            continue
        octets, fields = octets + sum(map(len, anew)), fields + len(found)
        if max(map(len, anew)) > FIELD_OCTETS or octets > FIELDS_OCTETS or fields > MOST_FIELDS:
            return False
        for name, _ in found:
            del part[name]
        for (name, value), whole in zip(found, raw, strict=True):
            part.set_raw(name, value if whole.isascii() else _encodedField(name, whole))
    return True


def _encodedField(name: str, value: bytes) -> BaseHeader:
    """
    @param value: may be folded.
    """
    text = _FOLDING.sub("", value.decode("utf-8", "surrogateescape"))
    registry = _TEXTS if name.lower() in _UNREAD else _STRUCTURED
    return registry(name, re.sub(r"[\r\n]", " ", text))


def _encodeText(part: EmailMessage) -> None:
    """
    Encode one part's text, where it has any.
    """
    encoding = str(part.get("Content-Transfer-Encoding", "")).lower()
    if part.is_multipart() and encoding in ("8bit", "binary"):
        part.replace_header("Content-Transfer-Encoding", "7bit")
    if part.is_multipart() or encoding not in _PLAIN:
        return
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or payload.isascii():
        return
    if part.get_content_maintype() == "text":
        encoding, encoded = "quoted-printable", binascii.b2a_qp(payload, istext=True)
    else:
        encoding, encoded = "base64", _base64(payload)
    part.set_payload(encoded.decode("ascii"))
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = encoding


def _base64(octets: bytes) -> bytes:
    lines = [binascii.b2a_base64(octets[i : i + 57]) for i in range(0, len(octets), 57)]
    return b"".join(line.replace(b"\n", b"\r\n") for line in lines)
