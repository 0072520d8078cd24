"""
What is around a server in a rig, in threads of the rig, so that it outlives a kill: a
next hop, a service that judges, and a name server, which fail now and then.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import re
import socket
import socketserver
import threading
import time
from typing import Any

from tests.crash.books import Arrived, judged

#: How likely each thing is that a next hop may do wrong, at each message.
FAULT = 0.06


class _ThreadingServer(socketserver.ThreadingTCPServer):
    """
    @ivar owner: whose server it is.
    """

    allow_reuse_address = True
    daemon_threads = True
    owner: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed is no error."""


class FlakyHop:
    """
    A next hop.

    @ivar isDown: whether it turns everybody away.
    @ivar port: where it listens.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.isDown = False
        self.lock = threading.Lock()
        self.copies: list[tuple[tuple[int, str], float, bool]] = []
        self._server = _ThreadingServer(("127.0.0.1", 0), _HopHandler)
        self._server.owner = self
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fails(self) -> bool:
        """Whether something goes wrong now."""
        with self.lock:
            return self.isDown or self.random.random() < FAULT

    def take(self, data: bytes, recipients: list[str], at: float) -> None:
        """
        A message is ours.

        @param at: when its sender was surely alive: it may have been killed when it
            had said all, and was not read yet.
        """
        number, isWhole = judged(data)
        with self.lock:
            self.copies += [((number, one), at, isWhole) for one in recipients]

    def read(self, arrived: Arrived, first: int = 0) -> int:
        """
        Add what came here, but for the first few.

        @return: how many came, in all.
        """
        with self.lock:
            for key, at, isWhole in self.copies[first:]:
                arrived.add(key, at, isWhole)
            return len(self.copies)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _HopHandler(socketserver.StreamRequestHandler):
    """
    One session.
    """

    timeout = 60

    def handle(self) -> None:
        hop: FlakyHop = self.server.owner  # type: ignore[attr-defined]
        if hop.fails():
            self._say("421 4.3.2 not now")
            return
        self._say("220 hop.test ESMTP")
        with contextlib.suppress(OSError):
            self._session(hop)

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def _session(self, hop: FlakyHop) -> None:
        recipients: list[str] = []
        while True:
            line = self.rfile.readline(10_000).decode("ascii", "replace").rstrip()
            verb = line[:4].upper()
            if verb == "EHLO":
                self._say("250-hop.test\r\n250-PIPELINING\r\n250 8BITMIME")
            elif verb == "MAIL":
                recipients.clear()
                self._say("250 2.1.0 ok")
            elif verb == "RCPT":
                found = re.search("<(.*)>", line)
                isTaken = found is not None and not hop.fails()
                recipients += [found[1]] if found and isTaken else []
                self._say("250 2.1.5 ok" if isTaken else "451 4.2.1 later")
            elif verb == "DATA" and recipients:
                if not self._data(hop, recipients):
                    return
            elif verb in ("QUIT", ""):
                self._say("221 2.0.0 bye")
                return
            else:
                self._say("250 2.0.0 ok" if verb in ("RSET", "NOOP") else "503 5.5.1 no")

    def _data(self, hop: FlakyHop, recipients: list[str]) -> bool:
        """
        @return: whether the connection stays; where it does not, nothing was taken.
        """
        at = time.monotonic()
        self._say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            if not line:
                return False
            lines.append(line[1:] if line.startswith(b".") else line)
            if hop.isDown:
                return False
        if hop.fails():
            if hop.random.random() < 0.5:
                return False
            self._say("451 4.3.0 no room")
            return True
        hop.take(b"".join(lines), recipients, at)
        self._say("250 2.0.0 taken")
        return True


class Judge:
    """
    A service for the content stage C{http}.

    @ivar isDown: whether it answers 500.
    """

    def __init__(self) -> None:
        self.isDown = False
        self._server = _ThreadingServer(("127.0.0.1", 0), _JudgeHandler)
        self._server.owner = self
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _JudgeHandler(http.server.BaseHTTPRequestHandler):
    """
    One question.
    """

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = json.dumps({"default": {"accept": True}}).encode()
        self.send_response(500 if self.server.owner.isDown else 200)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class NoNames:
    """
    A name server that knows no name.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, peer = self._socket.recvfrom(4096)
                end = query.index(b"\0", 12) + 5
                counts = b"\0\1\0\0\0\0\0\0"
                self._socket.sendto(query[:2] + b"\x81\x83" + counts + query[12:end], peer)

    def close(self) -> None:
        """End it."""
        self._socket.close()
