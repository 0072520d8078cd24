"""
Delivery status notifications: when a sender is told, and the message that says
so (RFC 3461, RFC 3464, RFC 6522; in UTF-8 RFC 6533; RFC 3834).

A notification has three parts: a text for people, the status for programs, and
what was sent: its header, or all of it where RET=FULL asked for that and
something has failed (RFC 3461 §5.2.10, §4.3).
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import attrs

from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Parameters
from deferrals.model.headertext import escaped
from deferrals.model.outgoing import wireAddress
from deferrals.model.reply import Reply
from deferrals.model.text import cleaned
from deferrals.model.trace import asciiName, field, rfc5322Date

#: No more of a header than this is sent back.
HEADER_OCTETS = 64 * 1024

_FOLD = 76

#: A word that is longer than this is broken (RFC 5322 §2.1.1).
_LINE_OCTETS = 900
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(<[!-~]{1,250}>)[ \t]*$", re.I | re.M)

#: A server's name.
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")

#: Whose words a Diagnostic-Code has that no SMTP server has said (RFC 3464 §2.3.6).
OURS = "x-deferrals"

#: What Action (RFC 3464 §2.3.3) becomes of what is to be told.
_ACTIONS = {"expired": "failed", "damaged": "failed"}

#: The status where no reply says better (RFC 3463).
_STATUS = {
    "failed": "5.0.0",
    "expired": "4.4.7",
    "damaged": "5.3.0",
    "delayed": "4.0.0",
    "delivered": "2.0.0",
    "relayed": "2.0.0",
    "expanded": "2.0.0",
}

_SUBJECTS = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is late",
    "relayed": "Your message was passed on",
    "expanded": "Your message was passed on to those behind an alias",
    "delivered": "Your message was delivered",
}

_SENTENCES = {
    "failed": "could not be delivered to this address, and will not be tried again",
    "expired": "could not be delivered to this address in time, and will not be tried again",
    "damaged": "was lost by a fault of this server before it could be delivered to this address",
    "delayed": "could not be delivered to this address yet.  You need not send it again",
    "relayed": "was passed on to a server that does not say what becomes of it",
    "expanded": "was passed on to those whom this address stands for",
    "delivered": "was delivered to this address",
}


def isWanted(notify: Collection[str] | None, action: str) -> bool:
    """
    Whether a sender wants to be told (RFC 3461 §4.1).

    @param notify: NOTIFY= of the recipient.
    @param action: as in L{Addressee.action}.
    """
    if action in ("delivered", "relayed", "expanded"):
        return notify is not None and "SUCCESS" in notify
    return notify is None or ("DELAY" if action == "delayed" else "FAILURE") in notify


def named(addressee: Addressee) -> str:
    """
    A recipient as its sender knows it: a member of an alias by the alias (RFC 3464
    §2.3.2).
    """
    return str(addressee.recipient.alias or addressee)


def _reply(addressee: Addressee) -> Reply | None:
    """
    What was last said about a recipient; of a member of an alias, without its address.
    """
    reply, alias = addressee.reply, addressee.recipient.alias
    if reply is None or alias is None:
        return reply
    user, _ = addressee.recipient.parted()
    spelt = [addressee.recipient.address, user]
    names = dict.fromkeys(form(one) for one in spelt for form in (str, wireAddress))
    own = re.compile("|".join(map(re.escape, names)), re.I)
    return attrs.evolve(reply, text=own.sub(lambda _: str(alias), reply.text))


#: What stands as the listener's name in the envelope of a notification.
LISTENER = "notices"


def isNotice(envelope: Envelope) -> bool:
    """
    Whether a message is a notification of ours.
    """
    return envelope.sender is None and envelope.listener == LISTENER


@attrs.frozen
class Notification:
    """
    @ivar envelope: of the message that it is about; with a sender.
    @ivar addressees: the recipients that it is about, with their C{action}.
    @ivar header: the header section of that message, as far as it is known.
    @ivar content: all of it, where it is to be sent back whole.
    @ivar hostname: the server that tells.
    @ivar id: the notification's own id.
    @ivar now: the time of day, in seconds since the epoch.
    @ivar leftSeconds: how long delayed recipients will still be tried.
    """

    envelope: Envelope
    addressees: Sequence[Addressee]
    header: bytes
    content: bytes | None
    hostname: str
    id: str
    now: float
    leftSeconds: float = 0.0

    @cached_property
    def _to(self) -> str:
        """
        The sender's address, in ASCII where it has such a form: then no server on
        the way needs SMTPUTF8 for it.
        """
        return "" if self.envelope.sender is None else wireAddress(self.envelope.sender)

    @cached_property
    def isGlobal(self) -> bool:
        """
        Whether it has to be the UTF-8 form (RFC 6533): the sender can read
        that, and something of what is to be said is not ASCII.
        """
        if not self.envelope.parameters.smtputf8:
            return False
        said = [self._to, self.envelope.parameters.envid or ""]
        for addressee in self.addressees:
            said += [named(addressee), addressee.recipient.orcpt or "", str(_reply(addressee))]
        return not all(map(str.isascii, said)) or not self.header.isascii()

    def build(self) -> tuple[bytes, Parameters]:
        """
        @return: the message, with CRLF line ends, and the parameters that it
            is to be sent with.
        """
        parts = [self._people(), self._programs()]
        if self.content is not None or self.header:
            parts.append(self._returned())
        boundary = self._boundary(parts)
        head = [
            ("From", f"Mail Delivery System <MAILER-DAEMON@{self.hostname}>"),
            ("To", f"<{self._to}>"),
            ("Subject", _SUBJECTS[self._worst()]),
            ("Date", rfc5322Date(self.now)),
            ("Message-ID", f"<{self.id}@{self.hostname}>"),
            ("Auto-Submitted", "auto-replied"),
            ("MIME-Version", "1.0"),
            (
                "Content-Type",
                f'multipart/report; report-type=delivery-status; boundary="{boundary}"',
            ),
        ]
        about = _MESSAGE_ID.search(self.header.replace(b"\r\n", b"\n"))
        if about is not None:
            head[5:5] = [("In-Reply-To", about[1].decode("ascii"))]
        mark = f"--{boundary}\r\n".encode("ascii")
        data = _fields(head) + b"\r\n" + b"".join(mark + part for part in parts)
        data += f"--{boundary}--\r\n".encode("ascii")
        body = "7BIT" if data.isascii() else "8BITMIME"
        utf8 = self.isGlobal and not self._to.isascii()
        return data, Parameters(body=body, smtputf8=utf8)

    def _boundary(self, parts: Sequence[bytes]) -> str:
        """
        One that is in none of the parts: no number there is as high.
        """
        begin = f"=_{self.id}_"
        number = re.compile(re.escape(begin.encode("ascii")) + rb"([0-9]{1,9})")
        taken = (int(found) for part in parts for found in number.findall(part))
        return f"{begin}{max(taken, default=-1) + 1}"

    def _worst(self) -> str:
        """
        The subject is about the worst that has happened.
        """
        actions = {_ACTIONS.get(a.action, a.action) for a in self.addressees}
        return next(action for action in _SUBJECTS if action in actions)

    def _people(self) -> bytes:
        """
        The part for people.
        """
        lines = [f"This is the mail server {self.hostname}.", ""]
        sentence = ""
        for addressee in sorted(
            self.addressees, key=lambda one: list(_SENTENCES).index(one.action)
        ):
            if sentence != _SENTENCES[addressee.action]:
                sentence = _SENTENCES[addressee.action]
                lines += _wrapped(
                    f"Your message of {rfc5322Date(self.envelope.received)} {sentence}:"
                )
                lines.append("")
            lines += self._personally(addressee)
        text = "\r\n".join(cleaned(line) for line in lines)
        kind = "us-ascii" if text.isascii() else "utf-8"
        return _part(f"text/plain; charset={kind}", *self._eightBit(text.encode("utf-8")))

    def _personally(self, addressee: Addressee) -> list[str]:
        lines, reply = [f"<{named(addressee)}>"], _reply(addressee)
        if reply is not None:
            source = f"{addressee.host} said: " if addressee.host else ""
            text = f"{source}{_said(reply)}"
            lines += [f"    {line}" for line in _wrapped(text, _FOLD - 4)]
        if addressee.action == "delayed":
            until = rfc5322Date(self.now + self.leftSeconds)
            lines.append(f"    It will be tried until {until}.")
        return [*lines, ""]

    def _programs(self) -> bytes:
        """
        The part for programs (RFC 3464 §2.1).
        """
        blocks = [self._perMessage(), *map(self._perRecipient, self.addressees)]
        data = b"\r\n".join(_fields(block, self.isGlobal) for block in blocks)
        if self.isGlobal:
            return _part("message/global-delivery-status", *self._eightBit(data))
        return _part("message/delivery-status", "7bit", data)

    def _perMessage(self) -> list[tuple[str, str]]:
        fields = [("Reporting-MTA", f"dns; {self.hostname}")]
        if self.envelope.parameters.envid is not None:
            fields.insert(0, ("Original-Envelope-Id", self.envelope.parameters.envid))
        if self.envelope.client.helo:
            fields.append(("Received-From-MTA", f"dns; {asciiName(self.envelope.client.helo)}"))
        return [*fields, ("Arrival-Date", rfc5322Date(self.envelope.received))]

    def _perRecipient(self, addressee: Addressee) -> list[tuple[str, str]]:
        """
        RFC 3464 §2.3; each recipient keeps the code it was given (P-11).
        """
        action, reply = addressee.action, _reply(addressee)
        fields = []
        if addressee.recipient.orcpt is not None:
            fields.append(("Original-Recipient", self._original(addressee.recipient.orcpt)))
        fields += [
            ("Final-Recipient", self._typed(named(addressee))),
            ("Action", _ACTIONS.get(action, action)),
            ("Status", _status(action, reply)),
        ]
        name = _mtaName(addressee.host)
        if name:
            fields.append(("Remote-MTA", f"dns; {name}"))
        if reply is not None:
            whose = "smtp" if addressee.host else OURS
            fields.append(("Diagnostic-Code", f"{whose}; {_said(reply)}"))
        fields.append(("Last-Attempt-Date", rfc5322Date(self.now)))
        if action == "delayed":
            fields.append(("Will-Retry-Until", rfc5322Date(self.now + self.leftSeconds)))
        return fields

    def _typed(self, address: str) -> str:
        if address.isascii():
            return f"rfc822; {address}"
        return f"utf-8; {address if self.isGlobal else escaped(address)}"

    def _original(self, orcpt: str) -> str:
        kind, _, address = orcpt.partition(";")
        return f"{kind}; {address if self.isGlobal else escaped(address)}"

    def _returned(self) -> bytes:
        """
        What was sent.
        """
        utf8 = self.isGlobal and not self.header.isascii()
        if self.content is not None:
            kind = "message/global" if utf8 else "message/rfc822"
            if utf8:
                return _part(kind, *self._eightBit(self.content))
            how = "7bit" if self.content.isascii() else "8bit"
            return _part(kind, how, self.content)
        header = self.header[:HEADER_OCTETS] + b"\r\n"
        if utf8:
            return _part("message/global-headers", *self._eightBit(header))
        how = "7bit" if header.isascii() else "8bit"
        return _part("text/rfc822-headers", how, header)

    def _eightBit(self, data: bytes) -> tuple[str, bytes]:
        """
        UTF-8 parts go as they are to a sender whose address needs SMTPUTF8
        anyway; otherwise in base64, so that the notification needs nothing of
        the servers on its way (RFC 6533 §3, RFC 6532 §3.7).
        """
        if data.isascii():
            return "7bit", data
        if not self._to.isascii():
            return "8bit", data
        return "base64", _base64(data)


_BOUNDARY = re.compile(rb'boundary="([^"]+)"')
_TYPE = re.compile(rb"^content-type: ([!-~]+)", re.I | re.M)
_BASE64 = re.compile(rb"^content-transfer-encoding: base64", re.I | re.M)


def smaller(notice: bytes) -> bytes | None:
    """
    A notification that asks for less of its way: of what was sent only the header,
    or nothing where there is no more already; and 7 bits, as far as its own header
    has no others.

    @param notice: as L{Notification.build} has made it.
    @return: C{None} where there is nothing more to leave out.
    """
    head, _, body = notice.partition(b"\r\n\r\n")
    boundary = _BOUNDARY.search(head)
    if boundary is None:
        return None
    mark = b"--" + boundary[1]
    parts = body.removesuffix(mark + b"--\r\n").split(mark + b"\r\n")[1:]
    returned = [found for found in map(_less, parts[2:]) if found]
    found = [*map(_sevenBit, parts[:2]), *returned]
    less = head + b"\r\n\r\n" + b"".join(mark + b"\r\n" + part for part in found) + mark + b"--\r\n"
    return less if less != notice else None


def _sevenBit(part: bytes) -> bytes:
    """
    A part in base64, where it is not ASCII.
    """
    if part.isascii():
        return part
    head, _, data = part.partition(b"\r\n\r\n")
    kind = head.partition(b"\r\n")[0].partition(b": ")[2].decode("ascii", "replace")
    return _part(kind, "base64", _base64(data))


def _less(part: bytes) -> bytes:
    """
    What was sent: only its header, in 7 bits; nothing, where it is that already.
    """
    head, _, data = part.partition(b"\r\n\r\n")
    kind = _TYPE.search(head)
    if kind is not None and kind[1].lower() in (b"text/rfc822-headers", b"message/global-headers"):
        less = _sevenBit(part)
        return less if less != part else b""
    if _BASE64.search(head):
        data = base64.b64decode(data)
    header = data.partition(b"\r\n\r\n")[0][:HEADER_OCTETS] + b"\r\n"
    return _sevenBit(
        _part("text/rfc822-headers", "8bit" if not header.isascii() else "7bit", header)
    )


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def _part(kind: str, how: str, data: bytes) -> bytes:
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {how}\r\n\r\n".encode("ascii")
    return head + data + (b"" if data.endswith(b"\r\n") else b"\r\n")


def _fields(fields: Sequence[tuple[str, str]], utf8: bool = True) -> bytes:
    """
    @param utf8: whether what is not ASCII may stand in them as it is (RFC 6532).
    """
    return b"".join(_field(name, value, utf8) for name, value in fields)


def _field(name: str, value: str, utf8: bool) -> bytes:
    if value.isascii() or not utf8:
        return field(name, value)
    return ("\r\n ".join(_wrapped(f"{name}: {value}")) + "\r\n").encode("utf-8", "replace")


def _wrapped(text: str, width: int = _FOLD) -> list[str]:
    """
    Text in lines, broken at blanks; a long word is broken where it must be
    (RFC 5322 §2.1.1).
    """
    lines: list[str] = []
    words: list[str] = []
    length = 0
    for word in _words(cleaned(text)):
        isFull = bool(words) and length + 1 + len(word) > width
        if isFull and (length >= width or not words[-1].endswith(":")):
            lines.append(" ".join(words))
            words = []
        length = length + 1 + len(word) if words else len(word)
        words.append(word)
    return [*lines, " ".join(words)]


def _words(text: str) -> Iterator[str]:
    """
    What stands between blanks; in pieces, where it would not fit into a line.
    """
    for word in text.split(" "):
        most = _LINE_OCTETS if word.isascii() else _LINE_OCTETS // 4
        for start in range(0, len(word) or 1, most):
            yield word[start : start + most]


def _said(reply: Reply) -> str:
    """
    A reply on one line, as it was received.
    """
    code = f"{reply.code} {reply.enhanced or ''}".rstrip()
    return f"{code} {' '.join(reply.lines())}".rstrip()


def _status(action: str, reply: Reply | None) -> str:
    if action in ("expired", "damaged") or reply is None:
        return _STATUS[action]
    return reply.enhanced or f"{reply.code // 100}.0.0"


def _mtaName(host: str) -> str:
    """
    A server's name as fields have it; empty, where it is none.  An address is no
    name: it stands in brackets (RFC 3464 §2.1.2, RFC 5321 §4.1.3).
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host if _NAME.fullmatch(host) else ""
    return f"[{host}]" if address.version == 4 else f"[IPv6:{host}]"
