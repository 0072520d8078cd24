"""
What a signature by the sender's domain is (DKIM, RFC 6376): which fields of a message
it is about, what its body comes to, and what stands in DNS.  Keys are used elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from deferrals.model.address import AddressError, Mailbox, normalDomain
from deferrals.model.completion import mailboxes
from deferrals.model.envelope import Envelope
from deferrals.model.headertext import isFieldName
from deferrals.model.settings import checked
from deferrals.model.srs import isTagged

#: Why a message is signed.
Purpose = Literal["submission", "notices", "forward"]

#: What is signed where it is there: RFC 6376 §5.4.1, and what says how the body is to be
#: read, or may be clicked on (RFC 8058 §4).
FIELDS = (
    *("From", "Sender", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID"),
    *("Resent-Date", "Resent-From", "Resent-To", "Resent-Cc", "In-Reply-To", "References"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    *("List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe"),
    *("List-Post", "List-Owner", "List-Archive"),
)

#: What servers add, take out or write anew on the way.
_CHANGING = re.compile(
    r"received|return-path|delivered-to|(resent-)?bcc|comments|keywords|dkim-signature"
    r"|authentication-results|arc-.*|(x-)?deferrals-.*",
    re.I,
)

#: So many fields of one name are signed, from the last one on.
MOST_ALIKE = 10

_BETWEEN_FIELDS = re.compile(rb"\r\n(?![ \t])")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_BLANKS = re.compile(rb"[ \t]+")

_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")

_LINES = b"\r\n" * 4096

#: One text in DNS has no more octets.
_TEXT_OCTETS = 255


def signingDomain(text: str) -> str:
    """
    @return: as L{normalDomain} spells it.
    @raise ValueError: it is none that has a place in DNS.
    """
    try:
        domain = normalDomain(text)
    except AddressError:
        domain = ""
    if not domain or domain.startswith("["):
        raise ValueError("a domain, such as example.net")
    return domain


def checkSelector(value: str) -> None:
    """
    @raise ValueError: it is none.
    """
    if len(value) > 200 or not all(map(_SELECTOR.fullmatch, value.split("."))):
        raise ValueError("a selector of letters, digits, - and _, such as 2026")


def _fieldNames(value: Iterable[str]) -> None:
    for name in value:
        if not isFieldName(name) or {*";="} & {*name}:
            raise ValueError(f"names of fields, not {name!r}")
        if _CHANGING.fullmatch(name):
            raise ValueError(f"fields that no server changes, not {name}")


@attrs.frozen
class SigningSettings:
    """
    One C{[[dkim]]} table.

    @ivar domain: messages are signed whose C{From} has an address of just this domain.
    @ivar selector: under which name DNS has the public key: C{SELECTOR._domainkey.DOMAIN}.
    @ivar key: a PEM file with the private key: RSA of 2048 bits or more, or Ed25519;
        read at the start and at each reload.  C{deferrals dkim new} makes it.
    @ivar sign: which messages: C{"submission"}, those of clients that have logged in, or
        that the C{allow} of a rule lets in; C{"notices"}, those of this server to
        senders; C{"forward"}, what is forwarded.
    @ivar headers: the fields that are signed, as far as a message has them; C{From}
        always, and once more than it is there, so that none can be added.
    """

    domain: str = attrs.field(validator=checked(signingDomain))
    selector: str = attrs.field(validator=checked(checkSelector))
    key: str
    sign: tuple[Purpose, ...] = ("submission", "notices")
    headers: tuple[str, ...] = attrs.field(default=FIELDS, validator=checked(_fieldNames))

    @property
    def place(self) -> str:
        """
        The name in DNS.
        """
        return placeOf(self.selector, self.domain)


def placeOf(selector: str, domain: str) -> str:
    """
    The name in DNS under which a public key is (RFC 6376 §3.6.2.1).
    """
    return f"{selector.lower()}._domainkey.{normalDomain(domain)}"


# What is signed.


@attrs.frozen
class Field:
    """
    @ivar name: in lower case.
    @ivar octets: the whole field, without its last CRLF.
    """

    name: bytes
    octets: bytes

    @property
    def value(self) -> bytes:
        """
        What stands behind the colon, with its folding.
        """
        return self.octets.partition(b":")[2]


def fieldsIn(header: bytes) -> list[Field]:
    """
    @param header: a header section, without the empty line.
    @return: what is a field in it.
    """
    found = ((_NAME.match(octets), octets) for octets in _BETWEEN_FIELDS.split(header))
    return [Field(match[1].lower(), octets) for match, octets in found if match]


def authors(fields: Iterable[Field]) -> list[Mailbox]:
    """
    @return: the addresses in C{From}; none, where it is not there just once, or where
        one of them cannot be read: then it is not known who is the author.
    """
    values = [field.value for field in fields if field.name == b"from"]
    if len(values) != 1:
        return []
    try:
        return list(map(Mailbox.parse, mailboxes(values[0].decode("utf-8", "replace"))))
    except AddressError:
        return []


def mayBeSigned(author: Mailbox, envelope: Envelope, hostname: str) -> bool:
    """
    Whether a message of this envelope may be signed by the author's domain.  One who has
    logged in may not have another's name proved: the domain is that of the login, or
    of the return path, which the login may use; where that is a forwarder's own, it is
    the server's, not the login's.
    """
    login = envelope.client.user
    if login is None:
        return True
    own = login.rpartition("@")[2] if "@" in login else hostname
    sender, domains = envelope.sender, set[str]()
    if sender is not None and not isTagged(sender.local):
        domains.add(sender.domain)
    with contextlib.suppress(AddressError):
        domains.add(normalDomain(own))
    return author.domain in domains


def namesToSign(fields: Iterable[Field], headers: Iterable[str]) -> list[bytes]:
    """
    What C{h=} says: each field that is there and is to be signed, and C{From} once more.
    """
    wanted = dict.fromkeys([b"from", *(name.lower().encode("ascii") for name in headers)])
    there = Counter(field.name for field in fields)
    found = [name for name in wanted for _ in range(min(there[name], MOST_ALIKE))]
    return [*found, b"from"]


class BodyHash:
    """
    The hash of a body that comes in pieces, C{relaxed} (RFC 6376 §3.4.4): blanks at the
    end of lines and empty lines at the end do not count, nor how many blanks there are.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._held = b""  # a blank, or half a line's end: what follows says what it is
        self._ends = 0  # line ends that count only if something follows
        self._isEmpty = True

    def feed(self, chunk: bytes) -> None:
        """
        @param chunk: the next octets.
        """
        text = _BLANKS.sub(b" ", self._held + chunk)
        half = b"\r" if text.endswith(b"\r") else b""
        text = text.removesuffix(b"\r")
        blank = b" " if text.endswith(b" ") else b""
        self._held = blank + half
        text = text.removesuffix(b" ").replace(b" \r\n", b"\r\n")
        content = text.rstrip(b"\r\n")
        if content:
            self._writeEnds()
            self._digest.update(content)
            self._isEmpty = False
        self._ends += (len(text) - len(content)) // 2

    def _writeEnds(self) -> None:
        while self._ends:
            octets = _LINES[: 2 * self._ends]
            self._digest.update(octets)
            self._ends -= len(octets) // 2

    def end(self) -> bytes:
        """
        @return: what C{bh=} says.
        """
        if not self._isEmpty:
            self._digest.update(b"\r\n")
        return base64.b64encode(self._digest.digest())


# What is in DNS.

KeyType = Literal["rsa", "ed25519"]


def recordOf(kind: KeyType, public: bytes) -> str:
    """
    @param public: the public key as DNS has it (RFC 6376 §3.6.1, RFC 8463 §4).
    @return: the text of the record.
    """
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode('ascii')}"


def zoneLine(place: str, record: str) -> str:
    """
    The record as a zone has it: in texts of at most 255 octets.
    """
    texts = [record[i : i + _TEXT_OCTETS] for i in range(0, len(record), _TEXT_OCTETS)]
    quoted = " ".join(f'"{text}"' for text in texts)
    return f"{place}. IN TXT ( {quoted} )"


def recordProblem(records: Sequence[bytes], kind: KeyType, public: bytes) -> str:
    """
    @param records: the texts that DNS has in the key's place.
    @return: why a receiver would not take a signature of this key; empty where it would.
    """
    if not records:
        return "there is no TXT record"
    if len(records) > 1:
        return f"there are {len(records)} TXT records: a receiver takes any one of them"
    tags = _tags(records[0].decode("utf-8", "replace"))
    if tags is None:
        return "the TXT record is no list of tags"
    if tags.get("v", "DKIM1") != "DKIM1" or "v" in list(tags)[1:]:
        return "the TXT record does not begin with v=DKIM1"
    if tags.get("k", "rsa") != kind:
        return f"the TXT record is for a key of another kind: k={tags.get('k', 'rsa')}, not {kind}"
    if "p" not in tags:
        return "the TXT record has no p="
    if not tags["p"]:
        return "the TXT record says that the key is revoked: p= is empty"
    return _keyProblem(tags, public)


def _keyProblem(tags: dict[str, str], public: bytes) -> str:
    try:
        found = base64.b64decode(tags["p"], validate=True)
    except (binascii.Error, ValueError):
        return "p= of the TXT record is no base64"
    if found != public:
        return "p= of the TXT record is another key"
    if "h" in tags and "sha256" not in tags["h"].split(":"):
        return f"the TXT record does not allow SHA-256: h={tags['h']}"
    if "s" in tags and not {"*", "email"} & set(tags["s"].split(":")):
        return f"the TXT record is not for mail: s={tags['s']}"
    if "y" in tags.get("t", "").split(":"):
        return "the TXT record says t=y: receivers treat signed mail as unsigned"
    return ""


def _tags(text: str) -> dict[str, str] | None:
    """
    RFC 6376 §3.2; blanks are of no meaning in any of our tags.

    @return: C{None} where it is no list of tags.
    """
    found: dict[str, str] = {}
    for word in text.rstrip(" \t\r\n").removesuffix(";").split(";"):
        name, mark, value = word.partition("=")
        name = name.strip(" \t\r\n")
        if not mark or not name or name in found:
            return None
        found[name] = re.sub(r"[ \t\r\n]+", "", value)
    return found
