"""
TLS towards other servers: which of them are the right ones, and STARTTLS on the
client's side (RFC 3207), without sockets: a session, and a
server that speaks TLS through OpenSSL's memory.
"""

from __future__ import annotations

import ast
import contextlib
import ipaddress
import os
import shutil
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from deferrals import tls
from deferrals.errors import PeerError
from deferrals.smtp.client.session import ClientSession
from deferrals.tls import Unverified, trusted, verifying
from tests.source import nodes
from tests.test_layout import imported, modules
from tests.tls import GOOD, HOST, WRONG, Certificates, TLSTransport, makeCertificate


class ClientTransport(TLSTransport):
    """
    The same transport, of a client.
    """

    _tlsClientDefault = True


class ClientTLSCase(SynchronousTestCase):
    """
    A session that has been welcomed in clear, and whose server has offered
    STARTTLS and a password.
    """

    def setUp(self) -> None:
        self.certificate, self.key = makeCertificate(self.mktempDirectory(), "mx.example.org")
        self.clock = Clock()
        self.session = ClientSession(self.clock, "client.example.com")
        self.transport = ClientTransport()
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)
        opened = Deferred.fromCoroutine(self.session.open())
        self.say("220 mx.example.org ready")
        self.say("250-mx.example.org", "250-STARTTLS", "250 AUTH PLAIN")
        self.successResultOf(opened)
        self.sni: list[Any] = []
        self.tls: Any = None

    def mktempDirectory(self) -> str:
        name = self.mktemp()
        os.makedirs(name)
        return name

    def take(self) -> bytes:
        said: bytes = self.transport.value()
        self.transport.clear()
        return said

    def say(self, *lines: str) -> None:
        """
        In clear.
        """
        self.take()
        self.session.dataReceived("".join(line + "\r\n" for line in lines).encode())

    def start(self, name: str = "mx.example.org", ca: bool = True) -> Deferred[Any]:
        """
        Ask for STARTTLS, with a server that has to be C{name}.
        """
        roots = trusted(self.certificate) if ca else None
        d = Deferred.fromCoroutine(self.session.secure(verifying(name, roots), True))
        self.assertEqual(self.take(), b"STARTTLS\r\n")
        return d

    def handshake(self) -> None:
        """
        The server's part.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_file(self.certificate)
        context.use_privatekey_file(self.key)
        context.set_tlsext_servername_callback(lambda c: self.sni.append(c.get_servername()))
        self.tls = SSL.Connection(context, None)
        self.tls.set_accept_state()
        for _ in range(10):
            self.exchange()
            with contextlib.suppress(SSL.Error):
                self.tls.do_handshake()
        self.exchange()

    def exchange(self) -> None:
        if self.transport.protocol is not self.session:
            self.transport.protocol._aggregator.flush()  # in the next turn of the reactor
        said = self.take()
        if said:
            self.tls.bio_write(said)
        if not self.transport.aborted:
            with contextlib.suppress(SSL.WantReadError):
                self.transport.protocol.dataReceived(self.tls.bio_read(1 << 20))

    def secretly(self, *lines: str) -> bytes:
        """
        Say something within TLS.

        @return: what the client has said before.
        """
        self.exchange()
        said = b""
        with contextlib.suppress(SSL.Error):
            said = self.tls.recv(1 << 20)
        if lines:
            self.tls.send("".join(line + "\r\n" for line in lines).encode())
            self.exchange()
        return said

    def lose(self) -> None:
        self.transport.protocol.connectionLost(Failure(ConnectionAborted()))


class SecureTests(ClientTLSCase):
    """
    L{ClientSession.secure}.
    """

    def test_verified(self) -> None:
        """
        The right server: what it has offered in clear is forgotten, and it is
        asked again.
        """
        d = self.start()
        self.say("220 2.0.0 go")
        self.handshake()
        self.assertNoResult(d)
        self.assertEqual(self.session.capabilities, {})
        self.assertEqual(
            self.secretly("250-mx.example.org", "250 SIZE 1000"), b"EHLO client.example.com\r\n"
        )
        self.successResultOf(d)
        self.assertTrue(self.session.protected and self.session.verified)
        self.assertEqual(self.session.capabilities, {"SIZE": ["1000"]})
        self.assertEqual(self.sni, [b"mx.example.org"])

    def test_anybody(self) -> None:
        """Any server is encrypted with, and none is taken for verified."""
        d = Deferred.fromCoroutine(self.session.secure(Unverified("other.example"), False))
        self.say("220 2.0.0 go")
        self.handshake()
        self.secretly("250 mx.example.org")
        self.successResultOf(d)
        self.assertTrue(self.session.protected)
        self.assertFalse(self.session.verified)
        self.assertEqual(self.sni, [b"other.example"])

    def test_noName(self) -> None:
        """A server whose name, as DNS says it, is none is asked for none."""
        for name in ("m\ufffdx.example", "mx\0.example", "192.0.2.1", "2001:db8::1", "a b", ""):
            connection = Unverified(name).clientConnectionForTLS(ClientTransport())
            self.assertIsNone(connection.get_servername(), name)

    def test_wrong(self) -> None:
        """
        Another name, or an issuer that nobody trusts: nothing is said to that
        server, and the connection is lost.
        """
        for name, ca, why in (
            ("other.example", True, "the certificate has another name"),
            ("mx.example.org", False, "certificate verify failed"),
        ):
            self.setUp()
            d = self.start(name, ca)
            self.say("220 2.0.0 go")
            self.handshake()
            self.assertEqual(self.secretly(), b"")
            self.lose()
            error = self.failureResultOf(d, PeerError).value
            self.assertIn(why, str(error))
            self.assertFalse(self.session.usable)

    def test_injected(self) -> None:
        """What comes in clear behind the reply to STARTTLS is nobody's word (RFC 3207 §6)."""
        d = self.start()
        self.say("220 2.0.0 go", "250-mx.example.org", "250 AUTH PLAIN")
        self.handshake()
        self.assertNoResult(d)
        self.secretly("250 mx.example.org")
        self.successResultOf(d)
        self.assertEqual(self.session.capabilities, {})

    def test_refused(self) -> None:
        """A refusal is told; the session goes on in clear, if its owner wants that."""
        d = self.start()
        self.say("454 4.7.0 not now")
        self.assertEqual(self.failureResultOf(d, PeerError).value.reply.code, 454)
        self.assertTrue(self.session.usable)
        self.assertFalse(self.session.protected)

    def test_silent(self) -> None:
        """A server that does not shake hands is not waited for."""
        d = self.start()
        self.say("220 2.0.0 go")
        self.clock.advance(300)
        self.failureResultOf(d, PeerError)
        self.assertFalse(self.session.usable)
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Nor by a caller who has cancelled."""
        d = self.start()
        self.say("220 2.0.0 go")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertFalse(self.session.usable)
        self.assertTrue(self.transport.aborted)

    def test_noTLS(self) -> None:
        """Nor is anything said to one that goes on in clear."""
        d = self.start()
        self.say("220 2.0.0 go")
        self.take()
        self.transport.protocol.dataReceived(b"250-mx.example.org\r\n250 AUTH PLAIN\r\n")
        self.lose()
        self.failureResultOf(d, PeerError)
        self.assertNotIn(b"EHLO", self.take())
        self.assertFalse(self.session.protected)


class VerifyingTests(ClientTLSCase):
    """
    Which servers are the right ones (S1): a session that is to say something to
    no other.
    """

    def setUp(self) -> None:
        super().setUp()
        self.certificates = Certificates(self.mktempDirectory())

    def tried(self, **certificate: Any) -> tuple[Deferred[Any], bytes]:
        """
        A session with a server of this certificate.

        @return: whether there is TLS, and what the server was told in it.
        """
        ClientTLSCase.setUp(self)
        self.certificate, self.key = self.certificates.make(**certificate)
        d = Deferred.fromCoroutine(
            self.session.secure(verifying(HOST, trusted(self.certificates.trusted)), True)
        )
        self.say("220 2.0.0 go")
        self.handshake()
        said = self.secretly()
        if said:
            self.secretly("250 mx.example.org")
        return d, said

    def refused(self, **certificate: Any) -> str:
        """
        @return: why there is no TLS.
        """
        d, said = self.tried(**certificate)
        self.assertEqual(said, b"")
        self.assertNoResult(d)
        self.lose()
        self.assertFalse(self.session.usable or self.session.protected or self.session.verified)
        self.assertTrue(self.session.distrusted)
        return str(self.failureResultOf(d, PeerError).value)

    def test_wrong(self) -> None:
        """No octet goes to a server that does not prove its name."""
        for kind, certificate in WRONG.items():
            with self.subTest(kind):
                self.assertRegex(self.refused(**certificate), "certificate|verify")

    def test_good(self) -> None:
        """One that does is spoken to."""
        for kind, certificate in GOOD.items():
            with self.subTest(kind):
                d, said = self.tried(**certificate)
                self.assertEqual(said, b"EHLO client.example.com\r\n")
                self.successResultOf(d)
                self.assertTrue(self.session.verified)

    def test_raises(self) -> None:
        """A check that fails, in whatever way, is a refusal."""
        for kind in (ValueError, RuntimeError, KeyboardInterrupt, SystemExit, MemoryError):

            def fail(_: Any, kind: type[BaseException] = kind) -> None:
                raise kind("odd")

            with self.subTest(kind.__name__):
                self.patch(tls, "extract_patterns", fail)
                self.refused(**GOOD["the name"])

    def test_address(self) -> None:
        """An address is a name, too; IPv6 with or without brackets and zone."""
        for host, shown in (("192.0.2.1",) * 2, ("[2001:db8::1]", "2001:db8::1")):
            names = [x509.IPAddress(ipaddress.ip_address(shown))]
            self.certificate, self.key = self.certificates.make(names)
            for expected, good in ((host, True), ("192.0.2.77", False)):
                certificate = self.certificate, self.key
                ClientTLSCase.setUp(self)
                self.certificate, self.key = certificate
                creator = verifying(expected, trusted(self.certificates.trusted))
                d = Deferred.fromCoroutine(self.session.secure(creator, True))
                self.say("220 go")
                self.handshake()
                self.assertEqual(self.secretly() != b"", good)
                self.lose()
                self.failureResultOf(d, PeerError)

    def test_nonsense(self) -> None:
        """A name that no certificate can have is no name."""
        for host in ("", " ", "a b", "*.right.test", "1234", "\udc80", "a/b"):
            self.assertRaises(ValueError, verifying, host)

    def test_files(self) -> None:
        """Issuers are in a file, or in the files of a directory; somewhere they must be."""
        directory = self.mktempDirectory()
        self.assertRaises(ValueError, trusted, directory)
        shutil.copy(self.certificates.trusted, os.path.join(directory, "one.pem"))
        shutil.copy(self.certificate, os.path.join(directory, "two.pem"))
        shutil.copy(self.key, os.path.join(directory, "key.pem.old"))
        self.assertEqual(len(trusted(directory)), 2)
        self.assertRaises(ValueError, trusted, self.key)


#: What one name stands for.
_BOTH = ["2001:db8::1", "192.0.2.1"]


@implementer(IHostnameResolver)
class _Both:
    """
    A resolver that knows two addresses of each name.
    """

    def resolveHostName(self, receiver: Any, name: str, portNumber: int = 0, *args: Any) -> Any:
        resolution = SimpleNamespace(name=name, cancel=lambda: None)
        receiver.resolutionBegan(resolution)
        receiver.addressResolved(IPv6Address("TCP", _BOTH[0], portNumber))
        receiver.addressResolved(IPv4Address("TCP", _BOTH[1], portNumber))
        receiver.resolutionComplete()
        return resolution


class SocketDescriptionTests(SynchronousTestCase):
    """
    L{tls.socketDescription}.
    """

    def test_said(self) -> None:
        """A path, whatever its name has; or the description of an endpoint."""
        for text, baseDir, found in (
            ("/run/a", None, "unix:/run/a"),
            ("/run/a", "/etc", "unix:/run/a"),
            ("/with:colon", None, r"unix:/with\:colon"),
            ("/with:colon", "/etc", r"unix:/with\:colon"),
            ("run/a", "/etc", "unix:/etc/run/a"),
            ("run/a", None, "run/a"),
            ("tcp:x:1", "/etc", "tcp:x:1"),
            ("unix:/a", None, "unix:/a"),
        ):
            self.assertEqual(tls.socketDescription(text, baseDir), found)


class EndpointTests(SynchronousTestCase):
    """
    L{tls.clientEndpoint}.
    """

    def test_others(self) -> None:
        """What is not C{tls:} is Twisted's."""
        for text, kind in (("tcp:127.0.0.1:25", "TCP4"), ("unix:/run/lmtp", "UNIX")):
            self.assertIn(kind, repr(type(tls.clientEndpoint(MemoryReactorClock(), text))))
        for text in ("nothing:25", "tcp:mx.example:0", "tcp:mx.example:port=65536", "tls:a:70000"):
            self.assertRaises(ValueError, tls.clientEndpoint, MemoryReactorClock(), text)

    def test_named(self) -> None:
        """All addresses of a name are tried, of both families; the first that answers is used."""
        reactor = MemoryReactorClock()
        if not IReactorPluggableNameResolver.providedBy(reactor):
            raise SkipTest("this Twisted's test reactor resolves no names")
        reactor.installNameResolver(_Both())
        for text in (
            "tcp:mx.example:25",
            "tcp:host=mx.example:port=25:timeout=9",
            "TCP:mx.example:25",
        ):
            reactor.tcpClients.clear()
            d = tls.clientEndpoint(reactor, text).connect(Factory())
            reactor.advance(1)
            reactor.advance(1)
            self.assertEqual([one[:2] for one in reactor.tcpClients], [(one, 25) for one in _BOTH])
            d.addErrback(lambda failure: None)
            d.cancel()

    def test_notNamed(self) -> None:
        """What Twisted does not know in it is wrong with a name, too."""
        for text in ("tcp:mx.example", "tcp:mx.example:25:what=x", "tcp:mx.example:25:1:2:3:4"):
            with self.assertRaises((TypeError, ValueError)):
                tls.clientEndpoint(MemoryReactorClock(), text)

    def test_parsed(self) -> None:
        """Keys, and characters behind a backslash."""
        for text, words, named in (
            ("tls:a:1", ["tls", "a", "1"], {}),
            ("tls:host=a:port=1", ["tls"], {"host": "a", "port": "1"}),
            (r"tls:\:\:1:1:name=a\=b\\:x=y=z", ["tls", "::1", "1"], {"name": "a=b\\", "x": "y=z"}),
            ("tls::", ["tls", "", ""], {}),
            (r"tls:a\=b:1:endpoint=tcp\:h\:1", ["tls", "a=b", "1"], {"endpoint": "tcp:h:1"}),
        ):
            self.assertEqual(tls._parsed(text), (words, named), text)

    def test_asTwisted(self) -> None:
        """Twisted reads the same in it."""
        for text in (r"tls:\:\:1:1:name=a\=b\\:x=y=z", "tls:a=b=c:d", "tls::a:", r"tls:\\:\a=b"):
            self.assertEqual(tls._parsed(text), endpoints._parse(text), text)

    def test_bad(self) -> None:
        """What is missing, too much or nonsense is said."""
        for text in (
            *("tls:", "tls:host", "tls:host:port", "tls:h:1:what=x", "TLS:h:1:2:3:4:5:6:7:8:9:10"),
            *("tls:h:1\\", "tls:a b:1", "tls:h:1:timeout=x"),
        ):
            self.assertRaises(ValueError, tls.clientEndpoint, MemoryReactorClock(), text)

    def test_isTLS(self) -> None:
        """Twisted knows the word in capitals, so it is verified in capitals, too."""
        self.assertTrue(tls.isTLS("tls:a:1") and tls.isTLS("TLS:a:1"))
        self.assertFalse(tls.isTLS("tcp:a:1") or tls.isTLS("ssl:a:1") or tls.isTLS("tlsx:a"))


class OnePlaceTests(SynchronousTestCase):
    """
    All connections of the package that verify are made in L{deferrals.tls}.
    """

    def test_imports(self) -> None:
        """Nothing else of the package asks Twisted, treq or OpenSSL for a verifying client."""
        elsewhere = {
            "BrowserLikePolicyForHTTPS",
            *("clientFromString", "optionsForClientTLS", "SSL4ClientEndpoint", "connectSSL"),
            *("ClientContextFactory", "create_default_context", "readBody", "getPage"),
        }
        for _, path, tree in modules():
            names = {node.id for node in nodes(tree, ast.Name)}
            names |= {node.attr for node in nodes(tree, ast.Attribute)}
            names |= {name.rpartition(".")[2] for name in imported(tree)}
            if path != "tls.py":
                self.assertEqual(names & elsewhere, set(), path)
                self.assertFalse("Agent" in names and path != "stages/web.py", path)
