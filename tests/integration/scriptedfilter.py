"""
A filter in threads that changes header sections as it is told to, for any mail server.
"""

from __future__ import annotations

import re
import socketserver
import struct
import threading
from collections.abc import Sequence
from typing import Any

from tests.milters import negotiate, packet
from tests.ports import freePort

#: It answers neither to the client's part nor to the body.
_STEPS = 0x1 | 0x2 | 0x10

_SILENT = b"DAQK"


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class EditingFilter:
    """
    Makes the changes whose number stands in the Subject, and refuses recipients that are
    called bad.

    @param cases: the changes, each a list of messages of the protocol.
    @ivar port: where it listens.
    @ivar heard: what it was told of header fields, by number.
    @ivar conversations: of how many messages it was told.
    """

    def __init__(self, cases: Sequence[Sequence[bytes]]) -> None:
        self.port = freePort()
        self.heard: dict[int, list[bytes]] = {}
        self.conversations = 0
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer._serve(self.rfile, self.wfile, cases)

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _serve(self, read: Any, write: Any, cases: Sequence[Sequence[bytes]]) -> None:
        number, fields = 0, list[bytes]()
        while head := read.read(4):
            message = read.read(struct.unpack(">L", head)[0])
            letter = message[:1]
            if letter == b"M":
                self.conversations += 1
                fields = []
            if letter == b"L":
                fields.append(message[1:])
                found = re.match(rb"LSubject\0 ?case (\d+)", message)
                number = number if found is None else int(found[1])
            answers = [b"c"]
            if letter == b"O":
                answers = [negotiate(steps=_STEPS)]
            elif message.startswith(b"R<bad"):
                answers = [b"y550 5.7.1 not bad\0"]
            elif letter == b"E":
                self.heard[number] = fields
                answers = [*cases[number], b"c"]
            for answer in answers if letter not in _SILENT else ():
                write.write(packet(answer))

    def stop(self) -> None:
        """
        End it.
        """
        self._server.shutdown()
        self._server.server_close()
