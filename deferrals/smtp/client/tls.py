"""
TLS towards other servers: with whatever server answers, or with the right one
only.
"""

from __future__ import annotations

from collections.abc import Sequence

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer


@implementer(IOpenSSLClientConnectionCreator)
class Unverified:
    """
    TLS with whatever server answers: it helps against an observer of
    the connection, not against an interceptor.

    @param host: the name to ask for (SNI), where it is one.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        options = CertificateOptions(verify=False, raiseMinimumTo=TLSVersion.TLSv1_2)
        self._context = options.getContext()

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        See C{IOpenSSLClientConnectionCreator}.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if any(c.isalpha() for c in self._host) and ":" not in self._host:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection


def trusted(path: str) -> list[Certificate]:
    """
    The certificates in a file (PEM).  Blocks.

    @raise ValueError: there are none.
    """
    mark = b"-----BEGIN CERTIFICATE-----"
    with open(path, "rb") as file:
        _, *pieces = file.read().split(mark)
    if not pieces:
        raise ValueError(f"no certificate in {path}")
    return [Certificate.loadPEM(mark + piece) for piece in pieces]


def verifying(
    host: str, authorities: Sequence[Certificate] | None = None
) -> IOpenSSLClientConnectionCreator:
    """
    TLS with a server whose certificate says that it is C{host}, and whose
    issuer is trusted; otherwise none.

    @param authorities: the issuers that are trusted; by default those that the
        system trusts.
    """
    return optionsForClientTLS(
        host,
        None if authorities is None else trustRootFromCertificates(authorities),
        extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2},
    )
