"""
HELO, EHLO and LHLO: what a client calls itself, and what it is offered.
"""

from __future__ import annotations

import functools
import re

import attrs

from deferrals.errors import PeerError
from deferrals.model.mixed import End
from deferrals.model.reply import R500_UNKNOWN_COMMAND, R501_SYNTAX, Reply
from deferrals.model.transaction import Phase
from deferrals.smtp.server.auth import AuthCommands
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.proxy import XCLIENT, ProxyCommands
from deferrals.smtp.server.starttls import TLSCommands

_HELO = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff_.:\[\]\-]+")

#: So much of a client's name is kept: more than DNS has.
_MAX_NAME = 255


class GreetingCommands:
    """
    See the module.

    @param session: whose client greets.
    @param tls: says whether TLS is offered.
    @param auth: says which ways of authenticating are.
    @param proxy: says whether a front end may introduce its client.
    """

    __slots__ = ("_auth", "_proxy", "_session", "_state", "_tls")

    def __init__(
        self, session: SessionBase, tls: TLSCommands, auth: AuthCommands, proxy: ProxyCommands
    ) -> None:
        self._session = session
        self._state = session.state
        self._tls = tls
        self._auth = auth
        self._proxy = proxy

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """
        What EHLO and LHLO list (D-1, P-1, with what they require: D-2, P-2).
        """
        limits = self._session.settings.limits
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,  # D-2, P-2
            b"SIZE": [b"%d" % limits.message_size],
            b"8BITMIME": None,
            b"ENHANCEDSTATUSCODES": None,  # D-2, P-2
            b"SMTPUTF8": None,
            b"DSN": None,
            b"CHUNKING": None,
        }
        if self._session.backend.binary:
            found[b"BINARYMIME"] = None
        # RFC 9422; what holds in every transaction (P-13).
        recipients = min(limits.recipients, limits.extension_recipients)
        found[b"LIMITS"] = [b"RCPTMAX=%d" % recipients, b"MAILMAX=%d" % limits.transactions]
        if not self._state.isLMTP:
            found[b"PRDR"] = None  # P-1
            found[b"DEFERRALS"] = None  # D-1
            if self._state.client.address in self._session.settings.exdataNetworks:
                found[b"XEXDATA"] = None
        found.update(self._situation())
        for keyword in self._session.settings.withhold:
            found.pop(keyword.encode("ascii"), None)
        if b"CHUNKING" not in found:
            found.pop(b"BINARYMIME", None)  # RFC 3030 §3
        return found

    def _situation(self) -> dict[bytes, list[bytes] | None]:
        """
        What is offered now, and perhaps not in another moment.
        """
        found: dict[bytes, list[bytes] | None] = {}
        if self._tls.isOffered:
            found[b"STARTTLS"] = None
        if self._state.tls is not None:
            found[b"REQUIRETLS"] = None  # RFC 8689 §2
        mechanisms = self._auth.mechanisms()
        if mechanisms:
            found[b"AUTH"] = [name.encode("ascii") for name in mechanisms]
        if self._proxy.isOffered:
            found[b"XCLIENT"] = [name.encode("ascii") for name in XCLIENT]
        return found

    def _hear(self, name: str, isExtended: bool) -> None:
        if not _HELO.fullmatch(name):
            raise PeerError("bad name", attrs.evolve(R501_SYNTAX, text="say your host's name"))
        self._session.abort("a new greeting", End.RSET)
        self._state.hello, self._state.isExtended = name[:_MAX_NAME], isExtended
        self._proxy.greeted()
        self._state.identify()
        self._state.offered = _named(tuple(self.extensions() if isExtended else ()))
        self._state.phase = Phase.READY

    def do_HELO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self._state.isLMTP:
            return self._session.reply(R500_UNKNOWN_COMMAND)
        self._hear(rest, False)
        self._session.reply(Reply(250, None, self._session.settings.hostname))

    def do_EHLO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self._state.isLMTP:
            return self._session.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def do_LHLO(self, rest: str) -> None:
        """
        RFC 2033 §4.1.
        """
        if not self._state.isLMTP:
            return self._session.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def _introduce(self, name: str) -> None:
        self._hear(name, True)
        found = self.extensions().items()
        lines = [b" ".join([keyword, *(values or ())]).decode("ascii") for keyword, values in found]
        self._session.reply(Reply(250, None, "\n".join([self._session.settings.hostname, *lines])))


@functools.lru_cache(64)
def _named(keywords: tuple[bytes, ...]) -> frozenset[str]:
    """
    One object for all connections that are offered the same: 1.3 KiB of each less.
    """
    return frozenset(keyword.decode("ascii") for keyword in keywords)
