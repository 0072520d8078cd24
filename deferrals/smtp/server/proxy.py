"""
Who the client is, when a front end has accepted its connection: the PROXY
protocol, before the first octet of SMTP; XCLIENT, as Postfix has it.

Both are believed only of the addresses that the configuration names.  The PROXY
header is believed of who has connected; all else that trusts an address looks at
the client that the header named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from twisted.internet.defer import Deferred

from deferrals.errors import PeerError
from deferrals.logger import Logger
from deferrals.model.address import AddressError, normalDomain
from deferrals.model.extensions import decodeXtext
from deferrals.model.networks import LOCAL, UNKNOWN, normalAddress
from deferrals.model.proxyprotocol import ProxyError, takeHeader
from deferrals.model.reply import R501_SYNTAX, R502_NOT_HERE, R503_SEQUENCE, R550_NOT_TRUSTED, Reply
from deferrals.model.transaction import Phase
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.clientname import ClientName
from deferrals.smtp.server.connectionlimits import LIMITS, Refusal

_log = Logger(namespace="deferrals.session")

#: Attributes of XCLIENT; those that are not NAME, ADDR, PORT or LOGIN say nothing
#: that this server asks for.
XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")

_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})


class ProxyCommands:
    """
    See the module.

    @param session: whose client it is.
    @param name: that client's name.
    @param introduced: called when it is known who the client is, with what it has sent
        so far; returns what of that is still to be taken.
    @ivar connection: the address that has really connected.
    @ivar other: the other end of the session: the client that a PROXY header
        named, otherwise L{connection}.  XCLIENT does not change it.
    """

    __slots__ = (
        *("_counted", "_header", "_introduced", "_isNamed", "_isSpokenFor", "_name"),
        *("_session", "_speaksForItself", "_state", "connection", "other"),
    )

    def __init__(
        self, session: SessionBase, name: ClientName, introduced: Callable[[bytes], bytes]
    ) -> None:
        self._session = session
        self._state = session.state
        self._name = name
        self._introduced = introduced
        self.connection = ""
        self.other = ""
        self._isNamed = False
        self._isSpokenFor = False
        self._speaksForItself = False
        self._counted: str | None = None
        self._header = b""

    def connected(self, address: str) -> None:
        """
        This is who has connected.
        """
        self.connection = self.other = address

    def count(self) -> Refusal:
        """
        Count the connection as this client's, unless it is a trusted one, that
        speaks for many.

        @return: why it must go, or C{None}.
        """
        self.uncount()
        if self._state.address == LOCAL or self._speaksForOthers(self._state.address):
            return None
        refusal = self._session.backend.connectionLimits.identified(self._state.address)
        if isinstance(refusal, Deferred):
            return refusal.addCallback(self._known, self._state.address)
        return self._known(refusal, self._state.address)

    def _known(self, refusal: Reply | None, address: str) -> Reply | None:
        self._counted = address if refusal is None else None
        return refusal

    def uncount(self) -> None:
        """
        Count it no longer.
        """
        counted, self._counted = self._counted, None
        if counted is not None:
            self._session.backend.connectionLimits.forgotten(counted)

    def _speaksForOthers(self, address: str) -> bool:
        """
        A front end that XCLIENT is believed of; a proxy, until it has named a
        client, whatever the address of that is.
        """
        settings = self._session.settings
        isProxy = settings.proxied and not self._isNamed and address in settings.trustedProxies
        return isProxy or address in settings.xclientNetworks

    # The PROXY protocol.

    def awaitHeader(self) -> None:
        """
        The first octets are a PROXY header.
        """
        if self.connection not in self._session.settings.trustedProxies:
            _log.warn("{client} is not a trusted proxy", client=self.connection)
            self._session.cutOff()
            return
        self._session.reader = self._readHeader
        self._session.setTimeout(self._session.settings.limits.handshake_timeout)

    def _readHeader(self, octets: bytes) -> bytes:
        self._header += octets
        try:
            found = takeHeader(self._header)
        except ProxyError as error:
            _log.warn("{client}: {error}", client=self.connection, error=str(error))
            self._header = b""
            self._session.cutOff()
            return b""
        if found is None:
            return b""
        source, length = found
        rest, self._header = self._header[length:], b""
        self._session.reader = None
        if source.address is not None:
            self._state.address, self._state.port = source.address, source.port
            self.other, self._isNamed = source.address, True
            self._state.tls = source.tls
        return self._introduced(rest)

    # XCLIENT.

    @property
    def isOffered(self) -> bool:
        """
        Whether this connection may use it: a trusted front end may, until the
        client itself speaks.  There are front ends that pass everything on.
        """
        return self.other in self._session.settings.xclientNetworks and not self._speaksForItself

    def greeted(self) -> None:
        """
        The other end has said its name.  Behind XCLIENT that is the client's.
        """
        self._speaksForItself = self._isSpokenFor

    def do_XCLIENT(self, rest: str) -> None:
        """
        Postfix's XCLIENT: the session begins anew, as another client's.
        """
        if not self._session.settings.xclientNetworks:
            raise PeerError("not offered", R502_NOT_HERE)
        if self.other not in self._session.settings.xclientNetworks:
            raise PeerError("not trusted", R550_NOT_TRUSTED)
        if self._speaksForItself or self._state.phase not in (Phase.START, Phase.READY):
            raise PeerError("not now", R503_SEQUENCE)
        found = dict(_attributes(rest))
        if not found:
            raise PeerError("no attribute", R501_SYNTAX)
        address, port = _address(found.get("ADDR")), _port(found.get("PORT"))
        self._session.startOver("XCLIENT")
        self._isSpokenFor = True
        if address is not None:
            self._state.address = address
        if "NAME" in found:
            self._name.keep(_hostname(found["NAME"]))
        elif address is not None:
            self._name.lookUp()
        self._state.port = port if port is not None else self._state.port
        self._state.user = found.get("LOGIN") or None
        refusal = self.count()
        if isinstance(refusal, Deferred):
            self._session.waitFirst(refusal, self._goOn)
        else:
            self._goOn(refusal)

    def _goOn(self, refusal: Reply | None) -> None:
        self._state.identify()
        if refusal is not None:
            self._session.overLimit(LIMITS.get(refusal, ""))
            self._session.say(refusal)
            return self._session.close()
        self._session.reply(Reply(220, None, self._session.greeting().decode("ascii")))


def _bad(text: str) -> PeerError:
    return PeerError(text, attrs.evolve(R501_SYNTAX, text=text))


def _attributes(rest: str) -> Iterator[tuple[str, str]]:
    """
    Names and values; an unknown value is empty.
    """
    for word in rest.split():
        name, mark, value = word.partition("=")
        if not mark or name.upper() not in XCLIENT:
            raise _bad("XCLIENT takes " + ", ".join(XCLIENT))
        try:
            yield name.upper(), "" if value.upper() in _UNKNOWN else decodeXtext(value)
        except ValueError:
            raise _bad(f"bad value of {name.upper()}") from None


def _hostname(value: str | None) -> str:
    """
    The client's name in DNS; a content stage may ask for it.
    """
    try:
        return normalDomain(value or "")
    except AddressError:
        return ""


def _address(value: str | None) -> str | None:
    if not value:
        return None if value is None else UNKNOWN
    try:
        return normalAddress(value[5:] if value[:5].upper() == "IPV6:" else value)
    except ValueError:
        raise _bad("bad value of ADDR") from None


def _port(value: str | None) -> int | None:
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and int(value) < 65536):
        raise _bad("bad value of PORT")
    return int(value)
