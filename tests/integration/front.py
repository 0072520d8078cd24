"""
A front end on loopback: what connects to it comes from somewhere else, as far as the
PROXY protocol says.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.ports import freePort


class Front:
    """
    @param port: of the server behind it.
    @param address: where clients come from.
    @ivar port: where they connect.
    """

    def __init__(self, port: int, address: str) -> None:
        self._behind = port
        self._head = f"PROXY TCP4 {address} 192.0.2.1 1025 25\r\n".encode("ascii")
        self.port = freePort()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # it is closed
                return
            server = socket.create_connection(("127.0.0.1", self._behind), timeout=60)
            server.sendall(self._head)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """
        No more clients.
        """
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
