"""
The server's certificate and key: from two files, read again when they change.

The files are checked when a client begins a handshake, at most once a second.
A new pair that cannot be used (half written, a key that does not belong to it,
unreadable) is logged, and the old one stays in use until the files change again.
"""

from __future__ import annotations

import datetime
import math
import os

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from deferrals.deferreds import timeOfDay
from deferrals.logger import Logger

_log = Logger(namespace="deferrals.tls")

#: How often the files are checked, at most, in seconds.
CHECK_SECONDS = 1.0

#: What OpenSSL says of a key that belongs to another certificate.
_NO_PAIR = "key values mismatch"

_Version = tuple[tuple[int, int, int], ...]


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """
    Makes the server's side of TLS connections: TLS 1.2 and later.

    @param certificate: a PEM file: the certificate, then those between it and
        its root.
    @param key: a PEM file with its key, without a passphrase; may be the same.
    @param clock: the time.
    """

    def __init__(self, certificate: str, key: str, clock: IReactorTime) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._context: SSL.Context | None = None
        self._version: _Version = ()
        self._checked = 0.0

    def load(self) -> None:
        """
        Read the files.

        @raise ValueError: they cannot be used; the text says why.
        """
        version = self._stat()
        try:
            self._context = _context(self._certificate, self._key)
        finally:
            self._version, self._checked = version, self._clock.seconds()
        end = _lastMoment(self._certificate)
        if end < timeOfDay(self._clock):
            _log.warn(
                "{certificate} has expired, {when}: clients that look at it go away",
                certificate=self._certificate,
                when=datetime.datetime.fromtimestamp(end).astimezone().isoformat(),
            )

    def reload(self) -> None:
        """
        Read the files again; what cannot be used is logged.
        """
        try:
            self.load()
        except ValueError as error:
            _log.error(
                "{certificate} not reloaded, the old one stays: {error}",
                certificate=self._certificate,
                error=str(error),
            )
        else:
            _log.info("{certificate} reloaded", certificate=self._certificate)

    def _stat(self) -> _Version:
        try:
            found = [os.stat(path) for path in (self._certificate, self._key)]
        except OSError as error:
            raise ValueError(f"a readable file: {error}") from None
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)

    def _check(self) -> None:
        now = self._clock.seconds()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        try:
            changed = self._stat() != self._version
        except ValueError:
            changed = False  # being replaced, or gone: the old pair is good
        if changed:
            self.reload()

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        See C{IOpenSSLServerConnectionCreator}.
        """
        self._check()
        assert self._context is not None  # loaded before a listener is made
        return SSL.Connection(self._context, None)


def _context(certificate: str, key: str) -> SSL.Context:
    """
    @raise ValueError: the files cannot be used.
    """
    context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
    path = key
    try:
        with open(key, "rb") as file:
            # OpenSSL would ask the terminal for a passphrase.
            load_pem_private_key(file.read(), None)
        path = certificate
        context.use_certificate_chain_file(certificate)
        path = key
        context.use_privatekey_file(key)
        context.check_privatekey()
    except OSError as error:
        raise ValueError(f"a readable file: {error}") from None
    except (SSL.Error, ValueError, TypeError) as error:
        why = f"{path}: {_words(error, certificate)}"
        raise ValueError(
            f"a certificate and its key, in PEM, without a passphrase: {why}"
        ) from None
    return context


def _words(error: Exception, certificate: str) -> str:
    """
    What OpenSSL says, without the names of its parts.
    """
    if not isinstance(error, SSL.Error):
        return str(error)
    found = [reason for *_, reason in error.args[0]] if error.args else []
    if _NO_PAIR in found:
        return f"not the key of {certificate}"
    return ", ".join(found)


def _lastMoment(certificate: str) -> float:
    """
    @return: until when a certificate is valid; for ever, where that cannot be read.
    """
    try:
        with open(certificate, "rb") as file:
            return load_pem_x509_certificate(file.read()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return math.inf


def describe(handle: SSL.Connection) -> str:
    """
    Protocol and cipher of a TLS connection, e.g. C{"TLSv1.3
    TLS_AES_256_GCM_SHA384"}.
    """
    return f"{handle.get_protocol_version_name()} {handle.get_cipher_name()}"
