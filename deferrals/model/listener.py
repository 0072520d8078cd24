"""
What a listener offers to its clients, and asks of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import attrs

from deferrals.model.commands import checkName
from deferrals.model.limits import Limits, ReplyTimes
from deferrals.model.mixed import Mixed
from deferrals.model.networks import Networks, limited
from deferrals.model.settings import BadSetting, Seconds, checked, ofTheirTypes, positive

#: What C{withhold} can take back.
WITHHELD = frozenset(
    [
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "DEFERRALS",
        "DSN",
        "LIMITS",
        "PRDR",
        "REQUIRETLS",
        "SMTPUTF8",
        "XEXDATA",
    ]
)


def _withheld(value: Sequence[str]) -> None:
    if not WITHHELD.issuperset(value):
        raise ValueError(f"some of {', '.join(sorted(WITHHELD))}")


def _hostname(value: str) -> None:
    if value:
        checkName(value)


@attrs.frozen(kw_only=True, field_transformer=ofTheirTypes)
class ListenerOptions:
    """
    What the configuration and an embedding program both can say of a listener.

    @ivar protocol: C{"smtp"}, C{"submission"} or C{"lmtp"}.
    @ivar mixed: what a plain sender gets when its recipients differ; by default
        C{"retry"}, for submission C{"strictest"}.
    @ivar mixed_fallback: what follows when a message has been refused for now
        C{retry_limit} times, to bring its recipients apart: C{"split"}, they go
        on to come apart; or what C{mixed} calls so.
    @ivar retry_limit: how often that may be, for one message.
    @ivar bare_lf: what becomes of a message with a bare CR or LF: made to have
        CRLF everywhere, or refused, 550 5.6.0.
    @ivar strict: whether paths have brackets, local parts their dots between
        other characters, and messages no bare CR or LF, as RFC 5321 has it.
    @ivar tls: C{"none"}, C{"starttls"} (offered), C{"required"} (no mail
        without it) or C{"implicit"} (from the first octet); by default
        C{"starttls"} where there is a certificate.
    @ivar auth: C{"no"}, C{"offered"} or C{"required"}; by default C{"required"}
        for submission, C{"no"} for the others.
    @ivar auth_without_tls: whether passwords may come in clear text.
    @ivar greet_delay: how long the greeting is held back; who talks before it
        is refused, 554 5.5.1; 0 is not at all.
    @ivar proxies: with an endpoint C{haproxy:…}: the addresses and networks
        whose PROXY header is believed; C{"unix"} for Unix sockets.
    @ivar xclient: the addresses and networks that may use XCLIENT; C{"unix"}
        for Unix sockets.
    @ivar exdata: the addresses and networks that are offered XEXDATA, and are
        told of recipients that differ in one reply with the code 558: Courier
        understands it, without asking for it; other senders take it for a
        refusal by all.
    @ivar enumerate: what the answer behind the data is about: C{"content"}; or
        C{"delivery"}, which is tried first, once the message is durable.
    @ivar delivery_deadline: with C{"delivery"}: how long the answer waits.
    @ivar withhold: extensions that are not offered, by their EHLO keywords.
    """

    protocol: Literal["smtp", "submission", "lmtp"] = "smtp"
    mixed: Mixed | None = None
    mixed_fallback: Literal[Mixed.SPLIT, Mixed.NOTIFY, Mixed.FILE] = Mixed.SPLIT
    retry_limit: int = attrs.field(default=2, validator=checked(positive))
    bare_lf: Literal["normalise", "refuse"] = "normalise"
    strict: bool = False
    tls: Literal["none", "starttls", "required", "implicit"] | None = None
    auth: Literal["no", "offered", "required"] | None = None
    auth_without_tls: bool = False
    greet_delay: Seconds = Seconds(0)
    proxies: tuple[str, ...] = attrs.field(
        default=("127.0.0.0/8", "::1", "unix"), validator=checked(limited)
    )
    xclient: tuple[str, ...] = attrs.field(default=(), validator=checked(limited))
    exdata: tuple[str, ...] = attrs.field(default=(), validator=checked(Networks.parse))
    enumerate: Literal["content", "delivery"] = "content"
    delivery_deadline: Seconds = attrs.field(default=Seconds(20), validator=checked(positive))
    withhold: tuple[str, ...] = attrs.field(default=(), validator=checked(_withheld))

    @functools.cached_property
    def authentication(self) -> str:
        """
        C{auth}, or what it is by default.
        """
        return self.auth or ("required" if self.protocol == "submission" else "no")

    @functools.cached_property
    def mixedChoice(self) -> Mixed:
        """
        C{mixed}, or what it is by default: clients that submit show a 4xx as a
        failure, so they are never told one to bring recipients apart.
        """
        submits = self.protocol == "submission"
        return self.mixed or (Mixed.STRICTEST if submits else Mixed.RETRY)

    @property
    def mendsLineEnds(self) -> bool:
        """
        Whether bare CRs and LFs become CRLF.
        """
        return self.bare_lf == "normalise" and not self.strict

    @property
    def mayFile(self) -> bool:
        """
        Whether copies may have to be filed that were refused.
        """
        filing = (Mixed.NOTIFY, Mixed.FILE)
        comesApart = self.mixedChoice in (Mixed.RETRY, Mixed.SPLIT)
        return self.mixedChoice in filing or (comesApart and self.mixed_fallback in filing)


@attrs.frozen(kw_only=True, field_transformer=ofTheirTypes)
class ListenerSettings(ListenerOptions, ReplyTimes):
    """
    All that a listener's sessions are given.

    @ivar certificates: Twisted's TLS context factory, such as
        C{CertificateOptions}; C{None}
        for no TLS.
    @ivar proxied: whether connections begin with a PROXY header.
    @ivar limits: what one client may ask for.
    @ivar hostname: how the server introduces itself.
    @ivar name: for the log.
    """

    certificates: Any = None
    proxied: bool = False
    limits: Limits = Limits()
    hostname: str = attrs.field(default="", validator=checked(_hostname))
    name: str = ""

    def __attrs_post_init__(self) -> None:
        if self.certificates is None and self.security != "none":
            raise BadSetting("tls", "certificates, since there is to be TLS")

    @functools.cached_property
    def security(self) -> str:
        """
        C{tls}, or what it is by default.
        """
        return self.tls or ("none" if self.certificates is None else "starttls")

    @functools.cached_property
    def trustedProxies(self) -> Networks:
        """
        The networks of C{proxies}.
        """
        return Networks.parse(self.proxies)

    @functools.cached_property
    def xclientNetworks(self) -> Networks:
        """
        The networks of C{xclient}.
        """
        return Networks.parse(self.xclient)

    @functools.cached_property
    def exdataNetworks(self) -> Networks:
        """
        The networks of C{exdata}.
        """
        return Networks.parse(self.exdata)
