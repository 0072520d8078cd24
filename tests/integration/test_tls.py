"""
What promises to verify its server, against real TLS servers with wrong
certificates: each kind of connection, each kind of certificate.  A server that
does not prove its name is told nothing within TLS, and in clear no more than that
TLS is wanted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from deferrals.client import Login, sendMessage
from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.server import Services, buildStage
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage, makeRecipient
from deferrals.tls import clientEndpoint
from tests.tls import GOOD, HOST, WRONG, Certificates

reactor: Any = _reactor

#: What may be said in clear to a server of which nothing is known.
_HARMLESS = (b"EHLO", b"LHLO", b"STARTTLS", b"QUIT")


class Account:
    """
    What a server was told.

    @ivar clear: lines.
    @ivar secret: octets within TLS.
    @ivar begun: how often TLS was begun.
    @ivar result: what it came to for the client.
    """

    def __init__(self) -> None:
        self.clear: list[bytes] = []
        self.secret = b""
        self.begun = 0
        self.result: Any = None


class Mail(LineReceiver):
    """
    SMTP and LMTP: enough of it for a client to say who it is.
    """

    def __init__(self, account: Account, context: CertificateOptions, isSecret: bool) -> None:
        self._account = account
        self._context = context
        self._isSecret = isSecret

    def connectionMade(self) -> None:
        self._account.begun += self._isSecret
        self.sendLine(b"220 mx ready")

    def lineReceived(self, line: bytes) -> None:
        if self._isSecret:
            self._account.secret += line
        else:
            self._account.clear.append(line)
        verb = line[:4].upper()
        if line == b"STARTTLS":
            self.sendLine(b"220 go")
            self.transport.startTLS(self._context)
            self._account.begun += 1
            self._isSecret = True
        elif verb in (b"EHLO", b"LHLO"):
            more = [] if self._isSecret else [b"250-STARTTLS"]
            for one in (b"250-mx", *more, b"250-REQUIRETLS", b"250 AUTH PLAIN"):
                self.sendLine(one)
        else:
            self.sendLine(b"554 enough")
            self.transport.loseConnection()


class Sink(Protocol):
    """
    Takes octets, and hangs up.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def connectionMade(self) -> None:
        self._account.begun += 1

    def dataReceived(self, data: bytes) -> None:
        self._account.secret += data
        self.transport.loseConnection()


@implementer(IHostnameResolver)
class Loopback:
    """
    Each name is this machine.
    """

    def resolveHostName(
        self, receiver: Any, hostName: str, portNumber: int = 0, *more: Any, **others: Any
    ) -> Any:
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", portNumber))
        receiver.resolutionComplete()
        return receiver

    def cancel(self) -> None:
        raise NotImplementedError


@attrs.frozen
class Kind:
    """
    @ivar protocol: what the server speaks: C{"starttls"}, C{"tls"}, C{"octets"}.
    @ivar use: connects, and asks or sends; given services, a port, and the file of
        the issuer that is trusted.
    """

    protocol: str
    use: Callable[[Services, int, str], Any]


def _deliver(name: str, envelope: dict[str, Any] | None = None, **settings: Any) -> Any:
    """
    A delivery, whose settings may say C{{port}} and C{{ca}}.
    """

    def use(services: Services, port: int, ca: str) -> Any:
        stage = buildStage(IDeliveryStage, name, services, **_filled(settings, port, ca))
        return stage.deliver(
            makeMessage(), makeEnvelope(**(envelope or {})), makeAddressees(f"a@{HOST}")
        )

    return use


def _judge(name: str, **settings: Any) -> Any:
    def use(services: Services, port: int, ca: str) -> Any:
        stage = buildStage(IContentStage, name, services, **_filled(settings, port, ca))
        return stage.judge(makeMessage(), makeEnvelope(), [makeRecipient("a@example.net")])

    return use


def _lookUp(name: str, **settings: Any) -> Any:
    def use(services: Services, port: int, ca: str) -> Any:
        stage = buildStage(IEnvelopeStage, name, services, **_filled(settings, port, ca))
        return stage.judgeRecipient(makeEnvelope(), makeRecipient("a@example.net"))

    return use


def _filled(settings: dict[str, Any], port: int, ca: str) -> dict[str, Any]:
    return {
        key: value.format(port=port, ca=ca) if isinstance(value, str) else value
        for key, value in settings.items()
    }


def _send(endpoint: str, **settings: Any) -> Any:
    def use(services: Services, port: int, ca: str) -> Any:
        where = clientEndpoint(reactor, endpoint.format(port=port, ca=ca))
        return sendMessage(reactor, where, "a@b.test", ["c@d.test"], b"x: y\r\n", **settings)

    return use


_LOGIN = {"user": "me", "password": "secret"}
_PINNED = {"tls_name": HOST, "tls_ca": "{ca}"}
_TCP = "tcp:127.0.0.1:{port}"
_TLS = f"tls:{HOST}:{{port}}"

#: Where the system's issuers are asked, the trusted one is among them.
KINDS = {
    "smtp": Kind("starttls", _deliver("smtp", endpoint=_TCP, tls="verified", **_PINNED)),
    "smtp, a password": Kind("starttls", _deliver("smtp", endpoint=_TCP, **_PINNED, **_LOGIN)),
    "smtp, the system's issuers": Kind(
        "starttls", _deliver("smtp", endpoint=_TCP, tls="verified", tls_name=HOST)
    ),
    "smtp, tls:": Kind("tls", _deliver("smtp", endpoint=_TLS, **_LOGIN)),
    "smtp, TLS:": Kind("tls", _deliver("smtp", endpoint=f"TLS:{HOST}:{{port}}", **_LOGIN)),
    "smtp, tls: and tls_ca": Kind(
        "tls", _deliver("smtp", endpoint="tls:127.0.0.1:{port}", **_PINNED, **_LOGIN)
    ),
    "smtp, REQUIRETLS": Kind(
        "starttls",
        _deliver("smtp", {"requireTLS": True}, endpoint=_TCP, tls="opportunistic", **_PINNED),
    ),
    "lmtp": Kind("starttls", _deliver("lmtp", endpoint=_TCP, tls="verified", **_PINNED)),
    "lmtp, tls:": Kind("tls", _deliver("lmtp", endpoint=_TLS)),
    "callout": Kind("starttls", _lookUp("callout", endpoint=_TCP, tls="verified", **_PINNED)),
    "callout, tls:": Kind("tls", _lookUp("callout", endpoint=_TLS, protocol="smtp")),
    "sendMessage": Kind("starttls", _send(_TCP, security="verified", host=HOST)),
    "sendMessage, tls:": Kind("tls", _send(_TLS, login=Login("me", "secret"))),
    "sendMessage, wrapped": Kind(
        "tls", _send(f"tls:{HOST}:1:endpoint=tcp\\:127.0.0.1\\:{{port}}:trustRoots={{ca}}")
    ),
    "clamav": Kind("octets", _judge("clamav", socket=_TLS)),
    "spamassassin": Kind("octets", _judge("spamassassin", socket=_TLS)),
    "rspamd": Kind("octets", _judge("rspamd", url=f"https://{HOST}:{{port}}")),
    "http": Kind("octets", _judge("http", url=f"https://{HOST}:{{port}}/")),
    "http delivery": Kind("octets", _deliver("http", url=f"https://{HOST}:{{port}}/")),
    "users": Kind("octets", _lookUp("users", url=f"https://{HOST}:{{port}}/{{{{address}}}}")),
}


class VerifyingTests(TestCase):
    """
    See the module.
    """

    timeout = 300

    def setUp(self) -> None:
        directory = self.mktemp()
        os.makedirs(directory)
        self.certificates = Certificates(directory)
        self._environ("SSL_CERT_FILE", self.certificates.trusted)
        self._environ("SSL_CERT_DIR", directory + "-none")
        before = reactor.installNameResolver(Loopback())
        self.addCleanup(reactor.installNameResolver, before)
        self.assertTrue(IReactorPluggableNameResolver.providedBy(reactor))

    def _environ(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            self.addCleanup(os.environ.pop, name)
        else:
            self.addCleanup(os.environ.__setitem__, name, before)

    async def _tried(self, kind: Kind, certificate: dict[str, Any]) -> Account:
        """
        One connection of a kind to a server with a certificate.
        """
        account = Account()
        path, key = self.certificates.make(**certificate)
        factory = _server(kind.protocol, account, path, key)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        services = Services(reactor, hostname="mx.example.net")
        try:
            d = maybeDeferred(kind.use, services, port.getHost().port, self.certificates.trusted)
            d.addTimeout(20, reactor)
            d.addErrback(lambda failure: failure.trap(Exception, CancelledError) and None)
            account.result = await d
        finally:
            await maybeDeferred(services.nextHops.close)
            await maybeDeferred(port.stopListening)
        return account

    async def _refuses(self, name: str) -> None:
        for wrong, certificate in WRONG.items():
            account = await self._tried(KINDS[name], certificate)
            with self.subTest(f"{name}: {wrong}"):
                self.assertGreater(account.begun, 0)
                self.assertEqual(account.secret, b"")
                said = [line for line in account.clear if not line.startswith(_HARMLESS)]
                self.assertEqual(said, [])
                if name.startswith(("smtp", "lmtp")):
                    (outcome,) = account.result.values()
                    self.assertRegex(outcome.reply.enhanced, r"^[45]\.7\.")
        good = await self._tried(KINDS[name], GOOD["the name"])
        self.assertNotEqual(good.secret, b"", name)


def _server(protocol: str, account: Account, certificate: str, key: str) -> Factory:
    """
    @return: what accepts connections.
    """
    options = CertificateOptions()
    context = options.getContext()
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    if protocol == "starttls":
        return Factory.forProtocol(lambda: Mail(account, options, False))
    made: Factory = Factory.forProtocol(
        lambda: Sink(account) if protocol == "octets" else Mail(account, options, True)
    )
    wrapped: Factory = TLSMemoryBIOFactory(options, False, made)
    return wrapped


def _tests() -> Iterator[tuple[str, Callable[[VerifyingTests], Deferred[None]]]]:
    """
    A test for each kind of connection.
    """
    for name in KINDS:

        def test(self: VerifyingTests, name: str = name) -> Deferred[None]:
            return Deferred.fromCoroutine(self._refuses(name))

        test.__doc__ = f"A server that proves nothing is told nothing: {name}."
        yield f"test_{''.join(c if c.isalnum() else '_' for c in name)}", test


for _name, _test in _tests():
    setattr(VerifyingTests, _name, _test)
