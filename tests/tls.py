"""
TLS without sockets: a certificate made here, and a client that speaks to a
session's transport through OpenSSL's memory.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import os
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import _newtls  # what real transports use

from tests.harness import Bench, Transport


def makeCertificate(directory: str, name: str = "localhost", suffix: str = "") -> tuple[str, str]:
    """
    A new certificate, signed by itself.

    @return: the paths of the certificate and of its key.
    """
    return Issuer(None).certify(
        directory, [x509.DNSName(name)], common=name, suffix=suffix, issuer=None
    )


class Issuer:
    """
    One that signs certificates.

    @param directory: where its own certificate is kept; C{None} for one that
        signs only what is signed by itself.
    @ivar path: its own certificate.
    """

    def __init__(self, directory: str | None, common: str = "Test issuer") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(common)
        self.path = ""
        if directory is not None:
            basic = x509.BasicConstraints(ca=True, path_length=None)
            found = _builder(self._name, self._key).add_extension(basic, True)
            found = found.issuer_name(self._name)
            self.path = os.path.join(directory, f"{common.replace(' ', '-')}.pem")
            _write(self.path, found.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def certify(
        self,
        directory: str,
        names: Sequence[x509.GeneralName],
        *,
        common: str = "mallory-vpn-client",
        suffix: str = "",
        days: tuple[int, int] = (-1, 30),
        extensions: Sequence[x509.ExtensionType] = (),
        issuer: Issuer | str | None = "self",
    ) -> tuple[str, str]:
        """
        A new certificate.

        @param names: in its subjectAltName; none, none.
        @param days: from when, until when, from now.
        @param extensions: further ones.
        @param issuer: C{None} for a certificate that is signed by itself.
        @return: the paths of the certificate and of its key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(common), key, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        signer, signing = (_named(common), key) if issuer is None else (self._name, self._key)
        found = builder.issuer_name(signer).sign(signing, hashes.SHA256())
        paths = [os.path.join(directory, f"{kind}{suffix}.pem") for kind in ("cert", "key")]
        private = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(paths[0], found.public_bytes(_PEM))
        _write(paths[1], private)
        return paths[0], paths[1]


_PEM = serialization.Encoding.PEM


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int] = (-1, 30)
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
    )


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


#: The server that is meant in the tests of what is refused.
HOST = "mx.deep.right.test"

_CLIENTS = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
_NONSENSE = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x05abc")


def _dns(*names: str) -> dict[str, Any]:
    return {"names": [x509.DNSName(name) for name in names]}


#: Certificates that C{HOST} can prove itself with.
GOOD: dict[str, dict[str, Any]] = {
    "the name": _dns(HOST),
    "the name, in capitals": _dns(HOST.upper()),
    "one of several": {
        "names": [x509.RFC822Name("mallory@right.test"), x509.DNSName("a.test"), x509.DNSName(HOST)]
    },
    "a wildcard": _dns("*.deep.right.test"),
}

#: Certificates of the trusted issuer, and others, that prove nothing.
WRONG: dict[str, dict[str, Any]] = {
    "no subjectAltName": {"names": []},
    "no subjectAltName, but the common name": {"names": [], "common": HOST},
    "only an e-mail address": {"names": [x509.RFC822Name(f"mallory@{HOST}")]},
    "only a URI": {"names": [x509.UniformResourceIdentifier(f"https://{HOST}/")]},
    "only another address": {"names": [x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]},
    "a directory name": {"names": [x509.DirectoryName(_named(HOST))]},
    "a registered id": {"names": [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]},
    "another name": _dns("mx.wrong.test"),
    "a longer name": _dns(f"a.{HOST}"),
    "a shorter name": _dns("deep.right.test"),
    "a name with NUL": _dns(f"{HOST}\0.wrong.test"),
    "*": _dns("*"),
    "*.test": _dns("*.test"),
    "* for too many labels": _dns("*.right.test"),
    "* for too few labels": _dns(f"*.{HOST}"),
    "* in the middle": _dns("mx.*.right.test"),
    "two of them": _dns("*.*.right.test"),
    "a part of a label": _dns("m*.deep.right.test"),
    "the middle of a label": _dns("m*x.deep.right.test"),
    "a label and more": _dns("mx*.deep.right.test"),
    "an empty label": _dns("*..right.test"),
    "an empty name": _dns(""),
    "nonsense for names": {"names": [], "extensions": [_NONSENSE]},
    "expired": {**_dns(HOST), "days": (-30, -1)},
    "not yet valid": {**_dns(HOST), "days": (1, 30)},
    "of a client": {**_dns(HOST), "extensions": [_CLIENTS]},
    "signed by itself": {**_dns(HOST), "issuer": None},
    "of another issuer": {**_dns(HOST), "issuer": "other"},
}


class Certificates:
    """
    An issuer that is trusted, one that is not, and what they have signed.

    @ivar trusted: the certificate of the one that is.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._issuer = Issuer(directory)
        self._other = Issuer(directory, "Other issuer")
        self.trusted = self._issuer.path

    def make(self, names: Sequence[x509.GeneralName], **more: Any) -> tuple[str, str]:
        """
        One of L{GOOD} or L{WRONG}.

        @return: the paths of the certificate and of its key.
        """
        issuer = self._other if more.get("issuer") == "other" else self._issuer
        return issuer.certify(self._directory, names, suffix=f"-{next(_numbers)}", **more)


_numbers = itertools.count()


class TLSTransport(Transport):
    """
    A transport that can start TLS, the way Twisted's own ones do.
    """

    TLS = False
    _tlsClientDefault = False
    streamingProducer = True

    def startTLS(self, context: Any, normal: bool = True) -> None:
        _newtls.startTLS(self, context, normal, Transport)

    def write(self, data: bytes) -> None:
        if self.TLS:
            self.protocol.write(data)
        else:
            super().write(data)

    def loseConnection(self) -> None:
        if self.TLS:
            self.protocol.loseConnection()
        else:
            super().loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.TLS:
            self.protocol.registerProducer(producer, streaming)
        else:
            self.streamingProducer = streaming
            super().registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if self.TLS:
            self.protocol.unregisterProducer()
        else:
            super().unregisterProducer()


class TLSBench(Bench):
    """
    A session on a transport with TLS, and its client.

    @ivar tls: the client's side, once L{handshake} was called.
    """

    tls: Any = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, transport=TLSTransport(), **settings)

    def wire(self, data: bytes) -> None:
        """
        Octets as they are, to whoever listens to the transport.
        """
        self.transport.protocol.dataReceived(data)

    def handshake(self, version: int | None = None) -> None:
        """
        The client's and the server's hellos, to and fro.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        if version is not None:
            context.set_max_proto_version(version)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        for _ in range(10):
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                self._exchange()
            else:
                break
        self._exchange()

    def _exchange(self) -> None:
        """
        Carry what each side has for the other.
        """
        with contextlib.suppress(SSL.WantReadError):
            self.wire(self.tls.bio_read(1 << 20))
        if self.transport.protocol is not self.session:
            self.transport.protocol._aggregator.flush()  # in the next turn of the reactor
        said = self.take()
        if said:
            self.tls.bio_write(said)

    def secretly(self, *lines: str) -> list[str]:
        """
        Send lines within TLS; return what is said to them.
        """
        if lines:
            self.tls.send("".join(line + "\r\n" for line in lines).encode())
        self._exchange()
        try:
            said: bytes = self.tls.recv(1 << 20)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return []
        return said.decode().splitlines()
