"""
TLS without sockets: a certificate made here, and a client that speaks to a
session's transport through OpenSSL's memory.
"""

from __future__ import annotations

import contextlib
import datetime
import os
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
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    paths = [os.path.join(directory, f"{kind}{suffix}.pem") for kind in ("cert", "key")]
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, data in zip(paths, (certificate.public_bytes(pem), private), strict=True):
        with open(path, "wb") as file:
            file.write(data)
    return paths[0], paths[1]


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
