"""
HELO, EHLO and LHLO: what a client calls itself, and what it is offered.
"""

from __future__ import annotations

import re

import attrs

from deferrals.errors import PeerError
from deferrals.model.mixed import End
from deferrals.model.reply import R500_UNKNOWN_COMMAND, R501_SYNTAX, Reply
from deferrals.model.transaction import Phase
from deferrals.smtp.server.auth import Authentication
from deferrals.smtp.server.data import Contents
from deferrals.smtp.server.proxy import XCLIENT, Introduction
from deferrals.smtp.server.starttls import Encryption

_HELO = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff_.:\[\]\-]+")

#: So much of a client's name is kept: more than DNS has.
_MAX_NAME = 255


class Greetings(Introduction, Authentication, Encryption, Contents):
    """
    The part of a session that greets.
    """

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """
        What EHLO and LHLO list (D-1, P-1, with what they require: D-2, P-2).
        """
        limits = self._limits
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,  # D-2, P-2
            b"SIZE": [b"%d" % limits.message_size],
            b"8BITMIME": None,
            b"ENHANCEDSTATUSCODES": None,  # D-2, P-2
            b"SMTPUTF8": None,
            b"DSN": None,
            b"CHUNKING": None,
        }
        if self._backend.binary:
            found[b"BINARYMIME"] = None
        # RFC 9422; what holds in every transaction (P-13).
        recipients = min(limits.recipients, limits.extension_recipients)
        found[b"LIMITS"] = [b"RCPTMAX=%d" % recipients, b"MAILMAX=%d" % limits.transactions]
        if not self.state.isLMTP:
            found[b"PRDR"] = None  # P-1
            found[b"DEFERRALS"] = None  # D-1
            if self.state.client.address in self._settings.exdataNetworks:
                found[b"XEXDATA"] = None
        found.update(self._situation())
        for keyword in self._settings.withhold:
            found.pop(keyword.encode("ascii"), None)
        if b"CHUNKING" not in found:
            found.pop(b"BINARYMIME", None)  # RFC 3030 §3
        return found

    def _situation(self) -> dict[bytes, list[bytes] | None]:
        """
        What is offered now, and perhaps not in another moment.
        """
        found: dict[bytes, list[bytes] | None] = {}
        if self.offersTLS:
            found[b"STARTTLS"] = None
        if self.state.tls is not None:
            found[b"REQUIRETLS"] = None  # RFC 8689 §2
        mechanisms = self.mechanisms()
        if mechanisms:
            found[b"AUTH"] = [name.encode("ascii") for name in mechanisms]
        if self.offersXCLIENT:
            found[b"XCLIENT"] = [name.encode("ascii") for name in XCLIENT]
        return found

    def _hear(self, name: str, isExtended: bool) -> None:
        if not _HELO.fullmatch(name):
            raise PeerError("bad name", attrs.evolve(R501_SYNTAX, text="say your host's name"))
        self.abort("a new greeting", End.RSET)
        self.state.hello, self.state.isExtended = name[:_MAX_NAME], isExtended
        self.greeted()
        self.state.identify()
        extensions = self.extensions() if isExtended else ()
        self.state.offered = frozenset(keyword.decode("ascii") for keyword in extensions)
        self.state.phase = Phase.READY

    def do_HELO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._hear(rest, False)
        self.reply(Reply(250, None, self._settings.hostname))

    def do_EHLO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def do_LHLO(self, rest: str) -> None:
        """
        RFC 2033 §4.1.
        """
        if not self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def _introduce(self, name: str) -> None:
        self._hear(name, True)
        found = self.extensions().items()
        lines = [b" ".join([keyword, *(values or ())]).decode("ascii") for keyword, values in found]
        self.reply(Reply(250, None, "\n".join([self._settings.hostname, *lines])))
