"""
TLS towards other servers: with whatever server answers, or with the right one
only.

Every connection of ours that promises to verify its server is made here:
deliveries, call-outs, C{tls:} endpoints, the https of stages.  The check fails
closed: only a certificate whose issuer is trusted, and one of whose names is the
server's, is good, and an exception while it is looked at is a refusal.  It is
refused within the handshake, before anything of ours is on the wire.
"""

from __future__ import annotations

import ipaddress
import os
import re
import weakref
from collections.abc import Callable, Sequence

import idna
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    clientFromString,
    quoteStringArgument,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IReactorPluggableNameResolver,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

_MARK = b"-----BEGIN CERTIFICATE-----"

_LAST_PORT = 65535

#: One part of an endpoint string; C{\\} takes the next character as it is.
_PART = re.compile(r"(?:[^:\\]|\\.)*", re.S)

#: One part that has a key.
_NAMED = re.compile(r"((?:[^=\\]|\\.)*)=(.*)", re.S)

#: A name that a server can be asked for; it is no address.
_HOST = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9._-]{1,255}")

_Check = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]


class WrongServer(Exception):
    """
    The certificate does not say that it is the server that was meant.
    """


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
        if _HOST.fullmatch(self._host):  # DNS may say anything
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class Verifying:
    """
    TLS with the right server only.

    @param host: its name, or its address.
    @param authorities: the issuers that are trusted; by default those that the
        system trusts.
    @param client: what we show where the server asks for it.
    @raise ValueError: no certificate can have such a name.
    """

    def __init__(
        self,
        host: str,
        authorities: Sequence[Certificate] | None = None,
        client: PrivateCertificate | None = None,
    ) -> None:
        self._host = _asciiName(host)
        self._identity = _identity(self._host)
        trust = platformTrust() if authorities is None else trustRootFromCertificates(authorities)
        options = CertificateOptions(
            trustRoot=trust,
            raiseMinimumTo=TLSVersion.TLSv1_2,
            privateKey=None if client is None else client.privateKey.original,
            certificate=None if client is None else client.original,
        )
        self._context = options.getContext()

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        See C{IOpenSSLClientConnectionCreator}.
        """
        connection = SSL.Connection(self._context, None)
        if isinstance(self._identity, DNS_ID):
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        needed = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        connection.set_verify(needed, self._checkFor(weakref.ref(tlsProtocol)))
        return connection

    def _checkFor(self, protocol: weakref.ref[TLSMemoryBIOProtocol]) -> _Check:
        """
        What OpenSSL asks about each certificate of a chain.
        """

        def check(_: SSL.Connection, found: crypto.X509, error: int, depth: int, good: int) -> bool:
            if not good:
                return False  # OpenSSL says why
            try:
                if depth == 0:
                    self._mustName(found)
            except BaseException as error:  # whatever it is, nothing has been proved
                tls = protocol()
                if tls is not None:
                    tls.failVerification(Failure(self._wrong(error)))
                return False
            return True

        return check

    def _mustName(self, certificate: crypto.X509) -> None:
        """
        @raise Exception: the certificate has other names, or none, or nonsense.
        """
        names = extract_patterns(certificate.to_cryptography())
        verify_service_identity(names, [self._identity], [])

    def _wrong(self, error: BaseException) -> WrongServer:
        """
        Why a certificate is refused, for people.
        """
        if isinstance(error, VerificationError):
            return WrongServer(f"the certificate has another name than {self._host}")
        words = f"{type(error).__name__}: {error}"
        return WrongServer(f"the certificate cannot be that of {self._host}: {words}")


def _asciiName(host: str) -> str:
    """
    A name as certificates have it: A-labels; an address without its zone.
    """
    if not host.isascii():
        try:
            return idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError(f"a host name, not {host!r}") from None
    return host.removeprefix("[").removesuffix("]").partition("%")[0]


def _identity(host: str) -> DNS_ID | IPAddress_ID:
    try:
        return IPAddress_ID(str(ipaddress.ip_address(host)))
    except ValueError:
        return DNS_ID(host)


def verifying(
    host: str, authorities: Sequence[Certificate] | None = None
) -> IOpenSSLClientConnectionCreator:
    """
    As L{Verifying}, for callers that want no more than the interface.
    """
    creator: IOpenSSLClientConnectionCreator = Verifying(host, authorities)
    return creator


def trusted(path: str) -> list[Certificate]:
    """
    The certificates in a file (PEM), or in the C{.pem} files of a directory.
    Blocks.

    @raise ValueError: there are none.
    """
    files = [path]
    if os.path.isdir(path):
        files = [entry.path for entry in os.scandir(path) if entry.name.endswith(".pem")]
    found = [certificate for file in files for certificate in _certificates(file)]
    if not found:
        raise ValueError(f"no certificate in {path}")
    return found


def _certificates(path: str) -> list[Certificate]:
    with open(path, "rb") as file:
        _, *pieces = file.read().split(_MARK)
    return [Certificate.loadPEM(_MARK + piece) for piece in pieces]


# Endpoints.


def isTLS(endpoint: str) -> bool:
    """
    Whether an endpoint string is one of those whose server is verified.
    """
    return endpoint[:4].lower() == "tls:"


def socketDescription(text: str, baseDir: str | None = None) -> str:
    """
    @param text: the path of a socket, or the description of a client endpoint.
    @param baseDir: where relative paths start; C{None}, where there are none.
    @return: the description.
    """
    isRelative = baseDir is not None and ":" not in text
    if not (isRelative or text.startswith("/")):
        return text
    return f"unix:{quoteStringArgument(os.path.join(baseDir or '/', text))}"


def clientEndpoint(reactor: IReactorTime, description: str) -> IStreamClientEndpoint:
    """
    Twisted's C{clientFromString}, but for C{tcp:} with a name, all of whose addresses
    are tried, IPv6 and IPv4 (RFC 8305), and C{tls:}, whose server is verified here:
    C{tls:HOST:PORT}, with the parameters that Twisted knows (C{timeout},
    C{bindAddress}, C{certificate}, C{privateKey}, C{trustRoots}, C{endpoint}), and
    C{name}, what the certificate must say instead of the host.  C{trustRoots} may
    be a file, too.

    Reads the files that it names, so it blocks where it names some.

    @raise ValueError: this is no such string.
    """
    found: IStreamClientEndpoint
    words, named = _parsed(description)
    port = named.get("port") or "".join(words[2:3])
    if words[:1] != ["unix"] and port.isdecimal() and not 0 < int(port) <= _LAST_PORT:
        raise ValueError(f"{description}: a port is a number from 1 to {_LAST_PORT}")
    if isTLS(description):
        try:
            return _tlsEndpoint(reactor, *words[1:], **named)
        except TypeError:  # a part of it is missing, or is too much
            raise ValueError(f"{description}: no client endpoint such as tls:host:465") from None
    try:
        found = _namedEndpoint(reactor, description) or clientFromString(reactor, description)
    except Exception:  # it raises what its parsers happen to
        examples = "tcp:host:25 or unix:/run/lmtp"
        raise ValueError(f"a client endpoint such as {examples}, not {description!r}") from None
    return found


def _namedEndpoint(reactor: IReactorTime, description: str) -> IStreamClientEndpoint | None:
    """
    C{tcp:NAME:PORT}; C{None} where it is something else, which Twisted knows.
    """
    if description[:4].lower() != "tcp:" or not IReactorPluggableNameResolver.providedBy(reactor):
        return None
    words, named = _parsed(description)
    parts = {**dict(zip(("host", "port"), words[1:], strict=False)), **named}
    host, port = parts.pop("host", ""), parts.pop("port", "")
    seconds, source = parts.pop("timeout", "30"), parts.pop("bindAddress", None)
    isNamed = not (isIPAddress(host) or isIPv6Address(host))
    if (
        parts
        or len(words) > 3
        or not (isNamed and host and port.isdecimal() and seconds.isdecimal())
    ):
        return None
    bound = None if source is None else (source, 0)
    endpoint: IStreamClientEndpoint = HostnameEndpoint(
        reactor, _asciiName(host), int(port), float(seconds), bound
    )
    return endpoint


def _parsed(description: str) -> tuple[list[str], dict[str, str]]:
    """
    The parts of an endpoint string: those without a key, and those with one.
    """
    words: list[str] = []
    named: dict[str, str] = {}
    position = 0
    while position <= len(description):
        part = _PART.match(description, position)
        assert part is not None  # it may be empty
        if part.end() < len(description) and description[part.end()] != ":":
            raise ValueError(f"{description}: nothing behind its last backslash")
        position = part.end() + 1
        key = _NAMED.fullmatch(part[0])
        if key is None:
            words.append(_plain(part[0]))
        else:
            named[_plain(key[1])] = _plain(key[2])
    return words, named


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.S)


def _tlsEndpoint(
    reactor: IReactorTime,
    host: str,
    port: str,
    timeout: str = "30",
    bindAddress: str | None = None,
    certificate: str | None = None,
    privateKey: str | None = None,
    trustRoots: str | None = None,
    endpoint: str | None = None,
    name: str | None = None,
) -> IStreamClientEndpoint:
    """
    Its parameters are those of an endpoint string.
    """
    authorities = None if trustRoots is None else trusted(trustRoots)
    client = None if certificate is None else _client(certificate, privateKey or certificate)
    creator = Verifying(name or host, authorities, client)
    below: IStreamClientEndpoint
    if endpoint is not None:
        below = clientEndpoint(reactor, endpoint)
    else:
        source = None if bindAddress is None else (bindAddress, 0)
        below = HostnameEndpoint(reactor, _asciiName(host), int(port), float(timeout), source)
    wrapped: IStreamClientEndpoint = wrapClientTLS(creator, below)
    return wrapped


def _client(certificate: str, key: str) -> PrivateCertificate:
    with open(certificate, "rb") as file:
        shown = Certificate.loadPEM(file.read())
    with open(key, "rb") as file:
        pair = KeyPair.load(file.read(), crypto.FILETYPE_PEM)
    both: PrivateCertificate = PrivateCertificate.fromCertificateAndKeyPair(shown, pair)
    return both
