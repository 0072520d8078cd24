"""
Traffic of all kinds: senders in threads that pump numbered messages and write down
what they are told.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

import attrs

from tests.crash.books import Books, content

CONFIG = """
hostname = "mx.example.net"
bounces = "senders"
reverse_dns = false
dns = ["127.0.0.1:{dns}"]

[limits]
connections_per_address = 500
transactions = 100000
errors = 1000
commands = 1000000

[[listen]]
endpoint = "tcp:{plain}:interface=127.0.0.1"
{tls}

[[listen]]
endpoint = "tcp:{exdata}:interface=127.0.0.1"
exdata = ["127.0.0.0/8"]

[[listen]]
endpoint = "tcp:{lmtp}:interface=127.0.0.1"
protocol = "lmtp"

[[listen]]
endpoint = "tcp:{first}:interface=127.0.0.1"
enumerate = "delivery"
delivery_deadline = "1s"

[[listen]]
endpoint = "tcp:{firstLMTP}:interface=127.0.0.1"
protocol = "lmtp"
enumerate = "delivery"
delivery_deadline = "1s"

[policies.virus]
content = [ {{ use = "match", rules = [ {{ test = "eicar" }} ] }} ]

[policies.spam]
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 spam is not wanted" }},
] }} ]

[policies.asked]
content = [ {{ use = "http", url = "http://127.0.0.1:{judge}/", timeout = 5 }} ]

[deliveries.senders]
use = "copies"

[deliveries.hop]
use = "smtp"
endpoint = "tcp:127.0.0.1:{hop}"
tls = "none"
retry = "1s"

[[recipients]]
match = "*@boxes.example"
policy = "virus"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*@picky.example"
policy = "spam"
deliver = {{ use = "copies" }}

[[recipients]]
match = "*@asked.example"
policy = "asked"
deliver = {{ use = "copies" }}

[[recipients]]
match = "*@hop.example"
policy = "virus"
deliver = "hop"

[[recipients]]
match = "*@nap.example"
policy = "virus"
deliver = {{ use = "copies", concurrency = 6 }}

[[recipients]]
match = "*@later.example"
policy = "virus"
deliver = {{ use = "copies", retry = "1s" }}

[[recipients]]
match = "*"
allow = ["127.0.0.1"]
policy = "virus"
deliver = {{ use = "copies" }}
"""

A, B, C = "a@example.net", "b@example.net", "c@example.net"
BOX, HOP, PICKY = "box@boxes.example", "h@hop.example", "p@picky.example"
GONE, LATER, SLOW = "gone-x@gone.example", "later-x@later.example", "slow-x@slow.example"
ASKED = "q@asked.example"

SENDER = "s@senders.example"


@attrs.frozen
class Kind:
    """
    A kind of message.

    @ivar port: the name of the listener.
    @ivar parameter: behind MAIL FROM.
    @ivar isReceipted: whether the sender asks to be told of the delivery.
    @ivar isChunked: whether it comes with BDAT, in several pieces.
    """

    recipients: Sequence[str]
    port: str = "plain"
    sender: str = ""
    parameter: str = ""
    isReceipted: bool = False
    isSpam: bool = False
    isLarge: bool = False
    isChunked: bool = False


KINDS = {
    "one": Kind([A]),
    "many": Kind([A, B, C]),
    "large": Kind([B], isLarge=True),
    "large, two destinations": Kind([A, HOP], isLarge=True),
    "maildir": Kind([BOX], sender=SENDER),
    "chunks": Kind([A, B], isChunked=True),
    "large chunks": Kind([BOX, C], isLarge=True, isChunked=True),
    "next hop": Kind([HOP], sender=SENDER),
    "retried": Kind([LATER], sender=SENDER),
    "receipt": Kind([A], sender=SENDER, isReceipted=True),
    "receipt, retried": Kind([LATER], sender=SENDER, isReceipted=True),
    "slow": Kind([SLOW]),
    "failing": Kind([GONE], sender=SENDER),
    "failing, no sender": Kind([GONE]),
    "two, one fails": Kind([A, GONE], sender=SENDER),
    "two, one waits": Kind([A, LATER], sender=SENDER),
    "three": Kind([A, HOP, GONE], sender=SENDER),
    "mixed, PRDR": Kind([A, B, PICKY], parameter=" PRDR", isSpam=True),
    "mixed, DEFERRALS": Kind([HOP, PICKY, A, B], parameter=" DEFERRALS", isSpam=True),
    "mixed, plain": Kind([A, PICKY, B], sender=SENDER, isSpam=True),
    "mixed, EXDATA": Kind([PICKY, A, C], "exdata", sender=SENDER, isSpam=True),
    "LMTP": Kind([A, LATER, GONE], "lmtp", sender=SENDER),
    "mixed, LMTP": Kind([PICKY, B, A], "lmtp", isSpam=True),
    "first": Kind([A, GONE], "first", sender=SENDER),
    "first, waits": Kind([B, LATER], "first"),
    "first, LMTP": Kind([A, LATER, GONE], "firstLMTP", sender=SENDER),
    "first, slow, LMTP": Kind([SLOW, A], "firstLMTP"),
}

#: What takes so long that a machine can be stopped while it delivers it: one message is
#: removed as a whole, the other is recorded in another way.
NAPS = {"nap": Kind(["n@nap.example"]), "nap, told": Kind(["b-n@nap.example"])}

PORTS = ("plain", "exdata", "lmtp", "first", "firstLMTP")

#: How often a sender comes again with who was refused for now.
ATTEMPTS = 6


#: So long an answer is waited for, in seconds.
TIMEOUT = 20


class AnsweredTwice(Exception):
    """
    Something was said that was not asked for.
    """


class Client:
    """
    One connection.

    @param name: of the listener.
    """

    def __init__(self, port: int, name: str = "plain") -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.file = self.socket.makefile("rwb")
        self.reply()
        self.say(("LHLO" if "LMTP" in name or name == "lmtp" else "EHLO") + " rig.test")

    def lines(self) -> list[str]:
        """
        @return: a reply's lines.
        """
        found = []
        while True:
            line = self.file.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            found.append(line.decode().rstrip())
            if line[3:4] != b"-":
                return found

    def reply(self) -> str:
        """
        @return: a reply's last line.
        """
        return self.lines()[-1]

    def say(self, line: str) -> str:
        """
        @return: what is answered.
        """
        self._quiet()
        self.file.write(line.encode() + b"\r\n")
        self.file.flush()
        return self.reply()

    def _quiet(self) -> None:
        """
        Nothing is said that was not asked for, but that it is time to go.
        """
        self.socket.settimeout(0)
        try:
            said = self.file.peek(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            said = b""
        finally:
            self.socket.settimeout(TIMEOUT)
        if said.startswith(b"421"):
            raise EOFError
        if said:
            raise AnsweredTwice(said.decode("ascii", "replace"))

    def startTLS(self) -> None:
        """Go on in TLS."""
        self.say("STARTTLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.file.close()
        self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rwb")
        self.say("EHLO rig.test")

    def close(self) -> None:
        """Without a word."""
        with contextlib.suppress(OSError):
            self.file.close()
        self.socket.close()


class Sender(threading.Thread):
    """
    Pumps messages until it is told to stop.

    @param ports: by the names of listeners.
    @param kinds: those of L{KINDS} that it sends.
    """

    def __init__(
        self, books: Books, ports: dict[str, int], seed: int, kinds: dict[str, Kind] = KINDS
    ) -> None:
        super().__init__(daemon=True)
        self.books, self.ports, self.kinds = books, ports, kinds
        self.random = random.Random(seed)
        self.stopping = False
        self.answers: dict[str, str] = {}

    def bring(self, name: str) -> str:
        """
        One message of a kind, in a session of its own.

        @return: the worst that was answered for a recipient; nothing, where nothing was.
        """
        kind = self.kinds[name]
        number = self.books.next(kind.recipients, bool(kind.sender), kind.isReceipted)
        try:
            client = Client(self.ports[kind.port], kind.port)
            try:
                self._attempt(client, name, number, [*kind.recipients])
            finally:
                client.close()
        except (OSError, EOFError):
            return ""
        return max(self.answers.values())

    def bringAll(self, names: Sequence[str]) -> list[str]:
        """
        Several messages in one session.

        @return: for each the worst that was answered.
        """
        said = []
        client = Client(self.ports["plain"])
        try:
            for name in names:
                self._message(client, name)
                said.append(max(self.answers.values()))
        finally:
            client.close()
        return said

    def run(self) -> None:
        while not self.stopping:
            try:
                self._session()
            except AnsweredTwice as error:
                self.books.twice.append((self.books.number, str(error)))
            except (OSError, EOFError):
                pass  # it comes again
            time.sleep(0.01)

    def _session(self) -> None:
        port = self.kinds[self.random.choice(list(self.kinds))].port
        own = [name for name, kind in self.kinds.items() if kind.port == port]
        client = Client(self.ports[port], port)
        try:
            while not self.stopping and self.random.random() < 0.95:
                self._message(client, self.random.choice(own))
            client.say("QUIT")
        finally:
            client.close()

    def _message(self, client: Client, name: str) -> None:
        kind = self.kinds[name]
        number = self.books.next(kind.recipients, bool(kind.sender), kind.isReceipted)
        left = list(kind.recipients)
        for _ in range(ATTEMPTS if name == "mixed, plain" else 1):
            left = self._attempt(client, name, number, left)
            if not left or self.stopping:
                return

    def _attempt(self, client: Client, name: str, number: int, recipients: list[str]) -> list[str]:
        """
        @return: who is refused for now, and may be asked again.
        """
        kind = self.kinds[name]
        data = content(number, kind.isSpam, kind.isLarge)
        client.say(f"MAIL FROM:<{kind.sender}>{kind.parameter}")
        notify = " NOTIFY=SUCCESS,FAILURE" if kind.isReceipted else ""
        answers = {one: client.say(f"RCPT TO:<{one}>{notify}") for one in recipients}
        taken = [one for one in recipients if answers[one].startswith("2")]
        if taken:
            answers.update(self._data(client, kind, taken, data))
        else:
            client.say("RSET")
        self.answers = answers
        again = [one for one in recipients if answers[one].startswith("4")]
        if name == "mixed, plain":
            answers = {one: said for one, said in answers.items() if one not in again}
        self.books.note(number, name, answers, isTried=kind.port.startswith("first"))
        return again

    def _data(self, client: Client, kind: Kind, taken: list[str], data: bytes) -> dict[str, str]:
        """
        @return: what each recipient is answered.
        """
        if kind.isChunked:
            self._chunks(client, data)
        else:
            if not client.say("DATA").startswith("354"):
                raise EOFError
            client.file.write(data + b".\r\n")
            client.file.flush()
        if "lmtp" in kind.port.lower():
            return {one: client.reply() for one in taken}
        lines = client.lines()
        if lines[0].startswith("353"):
            own = {one: client.reply() for one in taken}
            final = client.reply()
            return own if final.startswith("2") else dict.fromkeys(taken, final)
        if lines[0].startswith("558"):
            return dict(zip(taken, extended(lines), strict=True))
        return dict.fromkeys(taken, lines[-1])

    def _chunks(self, client: Client, data: bytes) -> None:
        middle = self.random.randrange(len(data))
        for piece in (data[:middle], b""):
            client.file.write(b"BDAT %d\r\n" % len(piece) + piece)
            client.file.flush()
            if not client.reply().startswith("250"):
                raise EOFError
        client.file.write(b"BDAT %d LAST\r\n" % len(data[middle:]) + data[middle:])
        client.file.flush()


def extended(lines: Sequence[str]) -> list[str]:
    """
    The recipients' replies in a 558: the last line of each.
    """
    return [line[4:] for line in lines if re.match("558[ -][0-9]{3}(?: |$)", line)]


class Vanisher(threading.Thread):
    """
    Leaves, at any step of a message, without a word.  It is told nothing, so nothing
    is written down but that it began.
    """

    def __init__(self, books: Books, ports: dict[str, int], seed: int, isTLS: bool) -> None:
        super().__init__(daemon=True)
        self.books, self.ports, self.isTLS = books, ports, isTLS
        self.random = random.Random(seed)
        self.stopping = False
        self.left = 0

    def run(self) -> None:
        while not self.stopping:
            with contextlib.suppress(OSError, EOFError):
                self.random.choice([self._message, self._handshake])()
                self.left += 1
            time.sleep(0.05)

    def _handshake(self) -> None:
        """
        TLS is given up: before it, within it, or behind it.
        """
        client = Client(self.ports["plain"])
        try:
            how = self.random.choice(("before", "within", "behind", "wrong"))
            if how == "behind" and self.isTLS:
                client.startTLS()
                client.say("MAIL FROM:<>")
                return
            client.say("STARTTLS")
            if how == "within":  # the beginning of a ClientHello
                client.socket.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
            elif how == "wrong":
                client.socket.sendall(b"MAIL FROM:<>\r\n" * 10)
        finally:
            client.close()

    def _message(self) -> None:
        kind = self.random.choice(list(KINDS.values()))
        number = self.books.next(kind.recipients, bool(kind.sender))
        client = Client(self.ports[kind.port], kind.port)
        data = content(number, kind.isSpam, kind.isLarge)
        steps: list[Callable[[], object]] = [
            lambda: client.say(f"MAIL FROM:<{kind.sender}>{kind.parameter}"),
            *(lambda one=one: client.say(f"RCPT TO:<{one}>") for one in kind.recipients),  # type: ignore[misc]
            lambda: client.say("DATA"),
            lambda: client.socket.sendall(data[: len(data) // 2]),
            lambda: client.socket.sendall(data[len(data) // 2 :]),
            lambda: client.socket.sendall(b".\r\n"),
            lambda: client.file.readline(5),
        ]
        try:
            for step in steps[: self.random.randrange(len(steps) + 1)]:
                step()
        finally:
            client.close()
