"""
A milter client: what a mail server says to a filter, and is told.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence

import attrs

#: All that a filter may be allowed to do.
_ACTIONS = 0x1FF

#: Of which commands a filter may say that it does not answer them.
_SILENT = {
    b"L": 0x80,
    b"C": 0x1000,
    b"H": 0x2000,
    b"M": 0x4000,
    b"R": 0x8000,
    b"N": 0x40000,
    b"B": 0x80000,
}


@attrs.define
class MilterAnswer:
    """
    What a filter wants.

    @ivar outcome: C{"accept"}, C{"reject"}, C{"tempfail"} or C{"discard"}.
    @ivar text: the reply that it wants.
    @ivar added: fields that it adds, or inserts.
    @ivar changed: fields that it changes, or removes: these have no value.
    @ivar quarantined: whether it wants the message held.
    """

    outcome: str = ""
    text: str = ""
    added: list[tuple[str, str]] = attrs.Factory(list)
    changed: list[tuple[str, str]] = attrs.Factory(list)
    quarantined: bool = False


def _pairs(data: bytes) -> tuple[str, str]:
    name, value = data.split(b"\0")[:2]
    return name.decode(), value.decode()


class Milter:
    """
    One conversation.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")
        self._flags = 0

    def _say(self, command: bytes, data: bytes = b"") -> None:
        self._socket.sendall(struct.pack(">I", len(data) + 1) + command + data)

    def _hear(self) -> tuple[bytes, bytes]:
        (length,) = struct.unpack(">I", self._file.read(4))
        packet = self._file.read(length)
        return packet[:1], packet[1:]

    def _macros(self, command: bytes, macros: Mapping[str, str]) -> None:
        pairs = "".join(f"{name}\0{value}\0" for name, value in macros.items())
        self._say(b"D", command + pairs.encode())

    def _step(self, command: bytes, data: bytes = b"") -> None:
        self._say(command, data)
        if self._flags & _SILENT[command]:
            return
        kind, rest = self._hear()
        assert kind == b"c", (command, kind, rest)

    def judge(
        self, message: bytes, sender: str, recipients: Sequence[str], user: str = ""
    ) -> MilterAnswer:
        """
        @param message: with CRLF line ends.
        """
        self._say(b"O", struct.pack(">III", 6, _ACTIONS, sum(_SILENT.values())))
        _, options = self._hear()
        self._flags = struct.unpack(">III", options[:12])[2]
        self._macros(b"C", {"j": "mx.example.net", "{daemon_name}": "mx.example.net"})
        address = b"client.test\0004" + struct.pack(">H", 1025) + b"127.0.0.1\0"
        self._step(b"C", address)
        self._step(b"H", b"client.test\0")
        self._macros(b"M", {"i": "ABCDEF", "{auth_authen}": user} if user else {"i": "ABCDEF"})
        self._step(b"M", f"<{sender}>\0".encode())
        for recipient in recipients:
            self._step(b"R", f"<{recipient}>\0".encode())
        head, _, body = message.partition(b"\r\n\r\n")
        for field in head.replace(b"\r\n ", b"\n ").split(b"\r\n"):
            name, _, value = field.partition(b":")
            self._step(b"L", name + b"\0" + value.lstrip(b" ") + b"\0")
        self._step(b"N")
        self._step(b"B", body)
        self._say(b"E")
        answer = MilterAnswer()
        while not answer.outcome:
            self._take(answer, *self._hear())
        self._file.close()
        self._socket.close()
        return answer

    def _take(self, answer: MilterAnswer, kind: bytes, data: bytes) -> None:
        ends = {b"a": "accept", b"c": "accept", b"r": "reject", b"t": "tempfail", b"d": "discard"}
        if kind in ends:
            answer.outcome = ends[kind]
        elif kind == b"y":
            answer.text = data.rstrip(b"\0").decode()
            answer.outcome = "tempfail" if answer.text.startswith("4") else "reject"
        elif kind == b"h":
            answer.added.append(_pairs(data))
        elif kind == b"i":
            answer.added.append(_pairs(data[4:]))
        elif kind == b"m":
            answer.changed.append(_pairs(data[4:]))
        elif kind == b"q":
            answer.quarantined = True
