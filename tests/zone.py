"""
A DNS zone on loopback, for tests.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.names import dns

#: What a datagram may have (RFC 1035 §4.2.1).
_DATAGRAM_OCTETS = 512


class Zone:
    """
    A name server in two threads, for datagrams and for connections: answers
    what it has, NXDOMAIN otherwise.

    @param records: by (name, type), e.g. C{("example.com", "TXT")}, each a list
        of payloads: text for A, AAAA, PTR and TXT, (preference, name) for MX.
    @param address: where it is to be asked; any port of loopback.
    @ivar address: where to ask, as (host, port).
    @ivar isSilent: whether it hears questions, and says nothing.
    """

    def __init__(
        self,
        records: Mapping[tuple[str, str], Sequence[Any]],
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self._records = records
        self.isSilent = False
        self._listening = socket.create_server(address)
        self.address: tuple[str, int] = self._listening.getsockname()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.asked: list[tuple[str, str]] = []
        self._threads = [
            threading.Thread(target=serve, daemon=True)
            for serve in (self._datagrams, self._connections)
        ]
        for thread in self._threads:
            thread.start()

    def _datagrams(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            answer = self._answer(data, isDatagram=True)
            if not self.isSilent:
                self._socket.sendto(answer, client)

    def _connections(self) -> None:
        """
        One after the other, and one question for each.
        """
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # it is shut down
                return
            with connection:
                connection.settimeout(10)
                try:
                    data = connection.recv(4096)
                except TimeoutError:
                    continue  # nothing is asked, for now
                if not data:
                    continue
                answer = self._answer(data[2:], isDatagram=False)
                connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, data: bytes, isDatagram: bool) -> bytes:
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
        octets = bytes(message.toStr())
        if isDatagram and len(octets) > _DATAGRAM_OCTETS:
            message.answers, message.trunc = [], True
            return bytes(message.toStr())
        return octets

    def close(self) -> None:
        """
        Stop.
        """
        datagrams, connections = self._threads
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            while datagrams.is_alive():  # one is lost where too many questions wait
                last.sendto(b"", self.address)
                datagrams.join(0.1)
        self._listening.shutdown(socket.SHUT_RDWR)
        connections.join()
        self._socket.close()
        self._listening.close()


def _payload(kind: str, value: Any) -> Any:
    if kind == "TXT":
        octets = value.encode()
        return dns.Record_TXT(*(octets[n : n + 255] for n in range(0, len(octets), 255)))
    if kind == "PTR":
        return dns.Record_PTR(value)
    if kind == "MX":
        return dns.Record_MX(*value)
    if kind == "AAAA":
        return dns.Record_AAAA(value)
    return dns.Record_A(value)
