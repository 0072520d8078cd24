"""
The header by which a proxy says whom it speaks for: the PROXY protocol of
HAProxy, versions 1 (a line) and 2 (binary).
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterator

import attrs

from deferrals.model.networks import LOCAL, UNKNOWN, normalAddress

#: The longest header of version 1, CRLF included.
_MAX_LINE_OCTETS = 107

#: The longest header of version 2 that is taken, with everything that the proxy
#: tells beside addresses.
_MAX_BINARY_OCTETS = 16 * 1024

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LINE = re.compile(
    r"PROXY (?:(TCP4|TCP6) (\S+) (\S+) (\d{1,5}) (\d{1,5})|UNKNOWN(?: [^\r\n]*)?)", re.A
)
_IPV4, _IPV6, _UNIX = 1, 2, 3

#: How many octets the addresses of each family have; none, where there are none.
_ADDRESS_OCTETS = {_IPV4: 12, _IPV6: 36, _UNIX: 216}

#: What a proxy tells beside the addresses: TLS, and within that its version and the
#: cipher; and the bit that says that the client speaks it.
_SSL, _VERSION, _CIPHER = 0x20, 0x21, 0x23
_CLIENT_SSL = 1

_TLS_WORD = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class ProxyError(ValueError):
    """
    This is no such header.
    """


@attrs.frozen
class Source:
    """
    Whom the proxy speaks for.

    @ivar address: their IP address, or C{"local"}; C{"unknown"} where the proxy
        does not know; C{None} where it speaks for itself (a health check).
    @ivar tls: protocol and cipher, where the client speaks TLS with the proxy; C{None}
        without, or where that is not told.
    """

    address: str | None = None
    port: int = 0
    tls: str | None = None


def takeHeader(data: bytes) -> tuple[Source, int] | None:
    """
    Take a header from the front of what a proxy has sent.

    @return: what it says, and its length; C{None} while it is not complete.
    @raise ProxyError: there is none.
    """
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _binary(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _line(data)
    raise ProxyError("no PROXY header")


def _line(data: bytes) -> tuple[Source, int] | None:
    end = data.find(b"\r\n", 0, _MAX_LINE_OCTETS)
    if end < 0:
        if len(data) >= _MAX_LINE_OCTETS:
            raise ProxyError("a PROXY header without end")
        return None
    match = _LINE.fullmatch(data[:end].decode("latin-1"))
    if match is None:
        raise ProxyError("a malformed PROXY header")
    if match[1] is None:
        return Source(UNKNOWN), end + 2
    family = ipaddress.IPv4Address if match[1] == "TCP4" else ipaddress.IPv6Address
    try:
        family(match[2])
        family(match[3])
    except ValueError:
        raise ProxyError("a bad address in the PROXY header") from None
    port = int(match[4])
    if max(port, int(match[5])) > 65535:
        raise ProxyError("a bad port in the PROXY header")
    return Source(normalAddress(match[2]), port), end + 2


def _binary(data: bytes) -> tuple[Source, int] | None:
    if len(data) < 16:
        return None
    kind, family, length = struct.unpack_from("!BBH", data, 12)
    if kind >> 4 != 2 or kind & 15 > 1:
        raise ProxyError("an unknown version of the PROXY protocol")
    if length > _MAX_BINARY_OCTETS:
        raise ProxyError("a PROXY header too long")
    end = 16 + length
    if len(data) < end:
        return None
    if kind & 15 == 0:
        return Source(), end
    source = _source(family >> 4, data[16:end])
    more = data[16 + _ADDRESS_OCTETS.get(family >> 4, 0) : end]
    return attrs.evolve(source, tls=_tls(more)), end


def _tls(data: bytes) -> str | None:
    """
    @param data: what the proxy tells beside the addresses.
    @return: protocol and cipher; C{None}, where the client speaks no TLS.
    """
    for kind, value in _values(data):
        if kind == _SSL and len(value) >= 5 and value[0] & _CLIENT_SSL:
            told = dict(_values(value[5:]))
            words = [told.get(_VERSION, b""), told.get(_CIPHER, b"")]
            good = [word.decode("ascii") for word in words if _TLS_WORD.fullmatch(word)]
            return " ".join(good) or "TLS"
    return None


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Types and values; what is not complete at the end is none.
    """
    position = 0
    while position + 3 <= len(data):
        kind, length = struct.unpack_from("!BH", data, position)
        end = position + 3 + length
        if end > len(data):
            return
        yield kind, data[position + 3 : end]
        position = end


def _source(family: int, addresses: bytes) -> Source:
    try:
        if family == _IPV4:
            source, _, port, _ = struct.unpack_from("!4s4sHH", addresses)
        elif family == _IPV6:
            source, _, port, _ = struct.unpack_from("!16s16sHH", addresses)
        else:
            return Source(LOCAL if family == _UNIX else UNKNOWN)
    except struct.error:
        raise ProxyError("a PROXY header too short for its addresses") from None
    return Source(normalAddress(str(ipaddress.ip_address(source))), port)
