"""
What is said between a client and a server, seen from between them.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading

_CLOSED = b"(closes)\r\n"

#: What is said to a message.
_ANSWERED = re.compile(rb"^(?:250 2\.6|45[01] 4|5\d\d 5)\.[^\n]*\n\Z", re.M)


class Wire:
    """
    Takes connections on loopback and hands them on, octet for octet.

    @param to: the server's port on loopback.
    @ivar port: where it takes them.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._said: list[list[tuple[str, bytes]]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            said: list[tuple[str, bytes]] = []
            self._said.append(said)
            for who, source, target in (("C", client, server), ("S", server, client)):
                argv = (said, who, source, target)
                threading.Thread(target=self._hand, args=argv, daemon=True).start()

    def _hand(
        self,
        said: list[tuple[str, bytes]],
        who: str,
        source: socket.socket,
        target: socket.socket,
    ) -> None:
        # One who closes while the other writes: nothing more is said.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                said.append((who, data))
                target.sendall(data)
        said.append((who, _CLOSED))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _commands(self) -> list[str]:
        """
        All that clients said, connection by connection.
        """
        joined = [b"".join(data for who, data in said if who == "C") for said in self._said]
        return [text.decode("utf-8", "replace") for text in joined]

    def attempts(self, sender: str) -> int:
        """
        How many transactions this return path had.
        """
        return self._count(rf"(?im)^MAIL FROM: ?<{re.escape(sender)}>")

    def named(self, recipient: str) -> int:
        """
        In how many RCPTs this recipient was named.
        """
        return self._count(rf"(?im)^RCPT TO: ?<{re.escape(recipient)}>")

    def _count(self, pattern: str) -> int:
        return sum(len(re.findall(pattern, text)) for text in self._commands())

    def refused(self, first: int = 0) -> bool:
        """
        Whether a message was refused for good.

        @param first: the first connection that counts.
        """
        for said in self._said[first:]:
            text = b"".join(data for who, data in said if who == "S")
            if re.search(rb"^5\d\d[ -]5\.[67]\.", text, re.M):
                return True
        return False

    def isIdle(self) -> bool:
        """
        Whether all connections are closed, or have just had the answer to a message.
        """
        return all(
            [data for _, data in said].count(_CLOSED) == 2 or _ANSWERED.search(said[-1][1])
            for said in self._said
            if said
        )

    def dialogue(self, first: int = 0) -> str:
        """
        What was said, in order, connection by connection.

        @param first: the first connection.
        """
        lines = []
        for said in self._said[first:]:
            lines.append("--")
            for who, data in list(said):
                text = data.decode("utf-8", "replace").rstrip("\r\n")
                lines += [f"{who}: {line}" for line in text.split("\r\n")]
        return "\n".join(lines)

    def connections(self) -> int:
        """
        How many there were.
        """
        return len(self._said)

    def close(self) -> None:
        self._listening.close()
