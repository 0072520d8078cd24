"""
A DNS zone on loopback, for tests.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.names import dns


class Zone:
    """
    A name server in a thread: answers what it has, NXDOMAIN otherwise.

    @param records: by (name, type), e.g. C{("example.com", "TXT")}, each a list
        of payloads: text for TXT and A, (preference, name) for MX.
    @ivar address: where to ask, as (host, port).
    """

    def __init__(self, records: Mapping[tuple[str, str], Sequence[Any]]) -> None:
        self._records = records
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()
        self.asked: list[tuple[str, str]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                data, client = self._socket.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            self._socket.sendto(self._answer(data), client)

    def _answer(self, data: bytes) -> bytes:
        message = dns.Message()
        message.fromStr(data)
        (query,) = message.queries
        name, kind = str(query.name).lower(), dns.QUERY_TYPES.get(query.type, "?")
        self.asked.append((name, kind))
        message.answer, message.recAv = True, True
        found = self._records.get((name, kind))
        known = any(one == name for one, _ in self._records)
        message.rCode = dns.OK if known else dns.ENAME
        message.answers = [
            dns.RRHeader(name, query.type, dns.IN, 60, _payload(kind, one)) for one in found or ()
        ]
        message.additional = []
        return bytes(message.toStr())

    def close(self) -> None:
        """
        Stop.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()


def _payload(kind: str, value: Any) -> Any:
    if kind == "TXT":
        return dns.Record_TXT(value.encode())
    if kind == "MX":
        return dns.Record_MX(*value)
    if kind == "AAAA":
        return dns.Record_AAAA(value)
    return dns.Record_A(value)
