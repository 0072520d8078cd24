"""
What is known of a message beside its content: its client and sender, its
parameters and its recipients (the envelope of RFC 5321 §2.3.1).

All of it is immutable, and has a JSON form in which the spool keeps it.
"""

from __future__ import annotations

import enum
import functools
from typing import Any

import attrs

from deferrals.model.address import Mailbox, splitSubaddress
from deferrals.model.ids import checkSpoolNumber, formatId
from deferrals.model.verdict import Route

#: So many recipients with a route, and clients as the spool keeps them, are remembered.
MAX_REMEMBERED = 1024

__all__ = ["Client", "Envelope", "Form", "Parameters", "Recipient"]


class Form(enum.Enum):
    """
    The form in which a sender can be told one answer per recipient: the rungs
    of the ladder that depend on what the sender speaks.
    """

    PLAIN = "plain"
    DEFERRALS = "deferrals"
    PRDR = "prdr"
    EXDATA = "exdata"
    LMTP = "lmtp"

    @property
    def keyword(self) -> str:
        """
        The EHLO keyword that offers it (D-1, P-1, X-1).  The parameter of MAIL
        FROM that asks for it is the form's name.
        """
        return "XEXDATA" if self is Form.EXDATA else self.name  # D-1, P-1, X-1

    @property
    def takesEach(self) -> bool:
        """
        Whether it has no final reply: each recipient's own one takes or refuses
        responsibility (RFC 2033 §4.2, X-10).
        """
        return self in (Form.EXDATA, Form.LMTP)


@attrs.frozen(cache_hash=True)
class Client:
    """
    The other end of an SMTP session.

    @ivar address: its IP address as text; C{"local"} on a Unix socket;
        C{"unknown"} where a front end does not know it.
    @ivar port: its port, 0 where there is none.
    @ivar helo: the name it gave with HELO, EHLO or LHLO.
    @ivar protocol: the C{with} clause of its Received line: SMTP, ESMTP,
        ESMTPS, ESMTPA, ESMTPSA, UTF8SMTP…, LMTP (RFC 3848, RFC 6531 §4.3).
    @ivar user: the identity that it authenticated as, or C{None}.
    @ivar tls: protocol and cipher, e.g. C{"TLSv1.3 TLS_AES_256_GCM_SHA384"},
        or C{None} without TLS.
    @ivar hostname: the name that its address has in DNS, both ways; empty
        where it is not known.  It may come to be known only behind the data, before
        the content is judged, so it counts for nothing where clients are compared.
    """

    address: str
    port: int = 0
    helo: str = ""
    protocol: str = "SMTP"
    user: str | None = None
    tls: str | None = None
    hostname: str = attrs.field(default="", eq=False)


def nameClient(client: Client, hostname: str) -> None:
    """
    DNS has told a client's name, for an envelope that is there already.
    """
    object.__setattr__(client, "hostname", hostname)


@attrs.frozen(cache_hash=True)
class Parameters:
    """
    What MAIL FROM carried beside the address.

    @ivar form: the way of answering that the client asked for.
    @ivar size: SIZE= (RFC 1870), in octets, or C{None}.
    @ivar body: BODY= (RFC 6152, RFC 3030): 7BIT, 8BITMIME or BINARYMIME.
    @ivar smtputf8: SMTPUTF8 (RFC 6531).
    @ivar ret: RET= (RFC 3461 §4.3): FULL, HDRS or C{None}.
    @ivar envid: ENVID=, xtext decoded (RFC 3461 §4.4).
    @ivar auth: AUTH= (RFC 4954 §5), xtext decoded; C{"<>"} or C{None}.
    @ivar requireTLS: REQUIRETLS (RFC 8689).
    """

    form: Form = Form.PLAIN
    size: int | None = None
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    auth: str | None = None
    requireTLS: bool = False


@attrs.frozen(cache_hash=True)
class Recipient:
    """
    One RCPT TO.

    @ivar address: the forward path.
    @ivar notify: NOTIFY= (RFC 3461 §4.1), a set of NEVER, SUCCESS, FAILURE,
        DELAY; C{None} where the client said nothing.
    @ivar orcpt: ORCPT= as C{"rfc822;user@example.net"}, xtext decoded.
    @ivar route: what applies to it, once the envelope stage has said so.
    @ivar aliases: of a member of an alias: those on the way to it, first the one that
        RCPT TO has named.  The spool keeps that one.
    """

    address: Mailbox
    notify: frozenset[str] | None = None
    orcpt: str | None = None
    route: Route | None = None
    aliases: tuple[Mailbox, ...] = ()

    @property
    def alias(self) -> Mailbox | None:
        """
        The alias that it is a member of, as RCPT TO has named it.
        """
        return self.aliases[0] if self.aliases else None

    def routed(self, route: Route) -> Recipient:
        """
        The same, under this route.
        """
        if self.aliases:
            return Recipient(self.address, self.notify, self.orcpt, route, self.aliases)
        return _routed(self, self.address.shownDomain, route)

    def parted(self, mark: str | None = None) -> tuple[Mailbox, str]:
        """
        @param mark: what begins a subaddress; by default what its route says.
        @return: the address without its subaddress, and that one; as it is, and
            nothing, where it has none.
        """
        if mark is None:
            mark = "" if self.route is None else self.route.subaddress
        return splitSubaddress(self.address, mark)

    def own(self, stage: str, key: str) -> float | str | None:
        """
        @return: its own value of a stage's setting; C{None}, where it has none: see
            L{Route.own<deferrals.model.verdict.Route.own>}.
        """
        return None if self.route is None else self.route.own(stage, key)

    @property
    def detail(self) -> str:
        """
        Its subaddress; empty where it has none.
        """
        return self.parted()[1]

    def __str__(self) -> str:
        return str(self.address)


@functools.lru_cache(MAX_REMEMBERED)
def _routed(recipient: Recipient, shownDomain: str, route: Route) -> Recipient:
    """
    The same recipients come again and again, and each knows its hash.

    @param shownDomain: its address's, in which equal ones may differ.
    """
    return attrs.evolve(recipient, route=route)


@attrs.frozen
class Envelope:
    """
    One transaction's envelope without its recipients: a stage is told only of
    the recipients that it is asked about.

    @ivar transaction: the number of the transaction (L{deferrals.model.ids}).
    @ivar received: when MAIL FROM came, in seconds since the epoch.
    @ivar client: the client that sends it.
    @ivar sender: the reverse path; C{None} is the null path C{<>}.
    @ivar parameters: what MAIL FROM asked for.
    @ivar listener: the name of the listener that it came in through.
    @ivar spool: the own number of the spool that it came into; empty where an
        earlier version has kept it.
    @ivar id: the transaction's number as people see it.
    """

    transaction: int
    received: float
    client: Client
    sender: Mailbox | None
    parameters: Parameters = Parameters()
    listener: str = ""
    spool: str = ""
    id: str = attrs.field(init=False, eq=False, repr=False)

    @id.default
    def _id(self) -> str:
        return formatId(self.transaction)

    @property
    def reference(self) -> str:
        """
        How a sender is told the transaction's id.
        """
        return f"id {self.id}"

    @property
    def uniqueId(self) -> str:
        """
        What no other message has, whichever server took it: for names of files,
        and for whatever tells repetitions.
        """
        return f"{self.id}-{self.spool}" if self.spool else self.id

    @property
    def senderText(self) -> str:
        """
        The reverse path without brackets; empty for the null path.
        """
        return "" if self.sender is None else str(self.sender)


_CLIENT_DEFAULTS = attrs.asdict(Client(""))
_PLAIN = Parameters()
_PARAMETER_DEFAULTS = attrs.asdict(_PLAIN)


def _changed(value: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in defaults}
    return {name: now for name, now in found.items() if now != defaults[name]}


@functools.lru_cache(MAX_REMEMBERED)
def _clientToJSON(client: Client, hostname: str) -> dict[str, Any]:
    """
    @param hostname: the client's: it is remembered for it, too.
    """
    return _changed(client, _CLIENT_DEFAULTS)


def _mailboxToJSON(mailbox: Mailbox) -> list[str]:
    return [mailbox.local, mailbox.domain, mailbox.shownDomain]


def envelopeToJSON(envelope: Envelope) -> dict[str, Any]:
    """
    What the spool keeps of an envelope, without the transaction's number and
    time, which have columns of their own.
    """
    parameters: dict[str, Any] = {}
    if envelope.parameters != _PLAIN:
        parameters = _changed(envelope.parameters, _PARAMETER_DEFAULTS)
        if "form" in parameters:
            parameters["form"] = parameters["form"].value
    data = {
        "client": _clientToJSON(envelope.client, envelope.client.hostname),
        "sender": None if envelope.sender is None else _mailboxToJSON(envelope.sender),
        "parameters": parameters,
        "listener": envelope.listener,
    }
    if envelope.spool:
        data["spool"] = envelope.spool
    return data


def envelopeFromJSON(data: dict[str, Any], transaction: int, received: float) -> Envelope:
    """
    The inverse of L{envelopeToJSON}.
    """
    parameters, spool = dict(data["parameters"]), data.get("spool", "")
    if spool:
        checkSpoolNumber(spool)
    if "form" in parameters:
        parameters["form"] = Form(parameters["form"])
    return Envelope(
        transaction,
        received,
        Client(**{"address": "", **data["client"]}),
        None if data["sender"] is None else Mailbox(*data["sender"]),
        Parameters(**parameters),
        data["listener"],
        spool,
    )


def recipientToJSON(recipient: Recipient) -> dict[str, Any]:
    """
    What the spool keeps of a recipient, its delivery excepted, which has a
    column of its own.
    """
    data: dict[str, Any] = {"address": _mailboxToJSON(recipient.address)}
    if recipient.notify is not None:
        data["notify"] = sorted(recipient.notify)
    if recipient.orcpt is not None:
        data["orcpt"] = recipient.orcpt
    if recipient.route is not None:
        data["policy"] = recipient.route.policy
        mark = recipient.route.subaddress
        if mark and mark in recipient.address.local:
            data["subaddress"] = mark
    if recipient.aliases:
        data["alias"] = _mailboxToJSON(recipient.aliases[0])
    return data


def recipientFromJSON(data: dict[str, Any], delivery: str) -> Recipient:
    """
    The inverse of L{recipientToJSON}.
    """
    notify, alias = data.get("notify"), data.get("alias")
    return Recipient(
        Mailbox(*data["address"]),
        None if notify is None else frozenset(notify),
        data.get("orcpt"),
        Route(data.get("policy", ""), delivery, subaddress=data.get("subaddress", "")),
        () if alias is None else (Mailbox(*alias),),
    )
