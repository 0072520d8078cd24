"""
A next hop that speaks SMTP or LMTP, and does what its program says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.task import Clock

from tests.hopfaults.account import Account
from tests.hopfaults.faults import Program
from tests.hopfaults.wire import Speaker

STEPS = (
    *("connect", "greeting", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "during"),
    *("own", "final", "RSET", "QUIT", "idle"),
)

#: A message that is larger may be answered before its end.
LARGE_OCTETS = 100_000

#: Of a reply.
_LAST_LINE = re.compile(rb"[2-5][0-9][0-9](?: .*)?\r?", re.S)

#: Form by the parameter of MAIL.
_FORMS = ("DEFERRALS", "PRDR", "EXDATA")


@attrs.define
class Mailserver:
    """
    @ivar keywords: what EHLO lists.
    @ivar rcpt: replies to RCPT TO by address, to be used up; then C{250}.
    @ivar own: replies to the data, by address, to be used up; then C{250}.
    """

    clock: Clock
    program: Program
    keywords: Sequence[str]
    isLMTP: bool
    rcpt: Mapping[str, list[str]]
    own: Mapping[str, list[str]]
    account: Account = attrs.field(factory=Account)
    sessions: list[MailSession] = attrs.field(factory=list)

    def session(self) -> MailSession:
        """
        @return: a new connection.
        """
        session = MailSession(self)
        self.sessions.append(session)
        return session

    def verdict(self, replies: Mapping[str, list[str]], address: str) -> str:
        """
        The next reply for a recipient.
        """
        left = replies.get(address)
        return left.pop(0) if left else "250 2.1.5 ok"


class MailSession(Speaker):
    """
    One connection.
    """

    def __init__(self, server: Mailserver) -> None:
        super().__init__(server.clock, server.program)
        self.server = server
        self.account = server.account
        self.buffer = b""
        self.octets: int | None = None
        self.isData = False
        self.given: set[str] = set()
        self.asked: set[str] = set()
        self.isLarge = self.isRefused = self.isTooMuch = False
        self.owed = 1  # the greeting
        self.isEach = server.isLMTP
        self.line = b""
        self.reset()

    def reset(self) -> None:
        self.sender = False
        self.form = ""
        self.people: list[tuple[str, str]] = []

    # What is asked, and what is answered.

    @property
    def isAwaited(self) -> bool:
        # What came in one piece is read one command after the other.
        return self.owed > 1 or bool(self.buffer)

    def delivered(self, octets: bytes) -> None:
        *lines, self.line = (self.line + octets).split(b"\n")
        self.owed -= sum(_LAST_LINE.fullmatch(line) is not None for line in lines)

    def tooMuch(self) -> None:
        self.isTooMuch = True

    # Words, and what they mean.

    def heard(self, reply: str, people: Sequence[str]) -> None:
        """
        The client has a reply that is about some recipients.
        """
        code = int(reply[:3]) if reply[:3].isdigit() else 0
        if self.isConfused:
            self.account.confused.add(code)
            if code >= 400:
                self.account.perhapsRefused(self.given)
            if 200 <= code < 300:
                # Perhaps it is taken for the answer to what is still on its way.
                self.account.perhaps |= self.given | self.asked
        elif code >= 400:
            for one in people:
                self.account.refuses(one, code)

    def unmatched(self, words: str) -> None:
        self.heard(words, [])

    def connectionMade(self) -> None:
        fault = self.fault("connect")
        if fault is not None:
            self.hangUp()
        else:
            self.answer("greeting", "220 peer.example", lambda _: None, self.ignored)

    def ignored(self, reply: str) -> None:
        """
        The client has a reply that refuses nothing for good.
        """
        self.heard(reply, [])

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > LARGE_OCTETS and not self.isLarge:
            self.isLarge = True
            self.during()
        while self.buffer and not self.isStuck:
            if self.octets is not None:
                if len(self.buffer) < self.octets:
                    return
                self.buffer, self.octets = self.buffer[self.octets :], None
                self.message()
            elif self.isData:
                end = (b"\r\n" + self.buffer).find(b"\r\n.\r\n")
                if end < 0:
                    return
                self.buffer, self.isData = self.buffer[end + 3 :], False
                self.message()
            else:
                line, mark, rest = self.buffer.partition(b"\r\n")
                if not mark:
                    return
                self.buffer = rest
                self.command(line.decode())

    def during(self) -> None:
        """
        Something may be said in the middle of a large message.
        """
        people = [address for address, _ in self.people]
        fault = self.fault("during")
        if fault is None:
            return
        refuses = fault.kind in ("reply", "closing") and fault.code[0] in "45"
        self.isConfused = self.isConfused or not refuses
        self.isRefused = refuses
        if refuses:
            self.say(f"{fault.code} enough\r\n".encode(), lambda: self.heard(fault.code, people))
        elif fault.kind in ("reply", "twice", "slow"):
            self.say(f"{fault.code} so far\r\n".encode(), lambda: self.unmatched(fault.code))
        elif fault.kind == "garbage":
            self.say(fault.garbage)
        elif fault.kind == "flood":
            self.flood(fault.flood)
        if fault.kind not in ("reply", "twice", "slow"):
            self.hangUp()

    # Commands.

    def command(self, line: str) -> None:
        if self.owed < 0 or self.isTooMuch:
            why = "a reply that was too long" if self.isTooMuch else "an answer to nothing"
            self.account.wrong.append(f"behind {why}, the client says {line}")
        self.owed += 1
        verb = line.partition(" ")[0].upper()
        if verb in ("EHLO", "LHLO", "HELO"):
            self.reset()
            self.answer(
                "EHLO",
                "\n".join(["250 peer.example", *(f"250 {one}" for one in self.server.keywords)]),
                lambda _: None,
                self.ignored,
            )
        elif verb in ("MAIL", "RCPT", "DATA", "BDAT"):
            getattr(self, f"do_{verb}")(line)
        elif verb == "RSET":
            self.reset()
            self.answer("RSET", "250 2.0.0 ok", lambda _: None, self.ignored)
        elif verb == "QUIT":
            self.answer("QUIT", "221 2.0.0 bye", lambda _: self.hangUp(), self.ignored)
        else:
            self.answer("other", "500 5.5.1 what", lambda _: None, self.ignored)

    def do_MAIL(self, line: str) -> None:
        self.reset()
        self.form = next((word for word in _FORMS if word in line.split()), "")

        def then(reply: str) -> None:
            self.sender = reply.startswith("2")

        def arrived(reply: str) -> None:
            self.heard(reply, [])
            if reply.startswith("5"):
                self.account.refusedAll.add(int(reply[:3]))

        self.answer("MAIL", "250 2.1.0 ok", then, arrived)

    def do_RCPT(self, line: str) -> None:
        address = line.partition("<")[2].partition(">")[0]
        reply = self.server.verdict(self.server.rcpt, address)
        if reply.startswith("352") and self.form != "DEFERRALS":
            reply = "250 2.1.5 ok"
        if not self.sender:
            self.answer(
                "other",
                "503 5.5.1 no sender",
                lambda _: None,
                lambda said: self.heard(said, [address]),
            )
            return

        self.account.named(address)
        self.asked.add(address)

        def arrived(said: str) -> None:
            self.heard(said, [address])
            if said.startswith("5") and not said.startswith("552"):
                self.account.rejected(address, lambda: not self.isConfused)

        def then(said: str) -> None:
            if said.startswith("2") or (said.startswith("352") and self.form == "DEFERRALS"):
                self.people.append((address, said))

        self.answer("RCPT", reply, then, arrived)

    def do_DATA(self, line: str) -> None:
        people = [address for address, _ in self.people]
        if not people:
            self.answer("other", "503 5.5.1 nobody", lambda _: None, self.ignored)
            return

        def then(reply: str) -> None:
            self.isData = reply.startswith("354")

        self.answer("DATA", "354 go", then, lambda reply: self.heard(reply, people))

    def do_BDAT(self, line: str) -> None:
        people = [address for address, _ in self.people]
        fault = self.server.program.at("BDAT") if people else None
        if fault is None:
            self.octets = int(line.split()[1])
        else:
            # The answer comes before the octets, which are taken for commands.
            self.isConfused = True
            told = self.tells(people)
            self.say(f"{fault.code} BDAT\r\n".encode(), lambda: told(fault.code))

    # Behind the data.

    def message(self) -> None:
        """
        All of a message is there.
        """
        rcpts, form = self.people, self.form
        isRefused, self.isRefused, self.isLarge = self.isRefused, False, False
        self.reset()
        self.owed += len(rcpts) if self.server.isLMTP else 1
        if isRefused:
            return
        if not rcpts:
            self.answer("final", "503 5.5.1 nobody", lambda _: None, self.ignored)
            return
        for address, _ in rcpts:
            if self.isConfused:
                self.account.sent(address)
            else:
                self.account.given(address, self.clock.seconds())
            self.given.add(address)
        own = {address: self.server.verdict(self.server.own, address) for address, _ in rcpts}
        refused = any(not reply.startswith("2") for reply in own.values())
        if self.server.isLMTP:
            for address, reply in own.items():
                self.answer("own", reply, lambda _: None, self.tells([address]))
        elif form == "EXDATA" and refused:
            self.extended(own)
        elif form in ("DEFERRALS", "PRDR") and len(rcpts) > 1:
            self.block(rcpts, own, form)
        else:
            self.plain([address for address, _ in rcpts])
        self.idle()

    def idle(self) -> None:
        """
        Something may be said although nothing is asked, or the connection be closed.
        """
        fault = self.fault("idle")
        if fault is None:
            return
        if fault.kind == "reply":
            # It is an answer to what is being asked meanwhile, or to nothing.
            self.isConfused = True
            self.say(f"{fault.code} by the way\r\n".encode(), lambda: self.unmatched(fault.code))
        else:
            self.hangUp()

    def tells(self, people: Sequence[str]) -> Callable[[str], None]:
        """
        @return: takes the reply that is the outcome of some recipients.
        """

        def arrived(reply: str) -> None:
            self.heard(reply, people)
            if reply.startswith("2"):
                for address in people:
                    self.account.took(address, not self.isConfused)

        return arrived

    def plain(self, people: Sequence[str]) -> None:
        """
        One reply for all.
        """
        self.answer("final", "250 2.6.0 taken", lambda _: None, self.tells(people))

    def extended(self, own: Mapping[str, str]) -> None:
        """
        A 558 that has each one's reply.
        """
        *first, last = own.values()
        lines = [*(f"558-{reply}" for reply in first), f"558 {last}"]
        octets = "".join(f"{line}\r\n" for line in lines).encode()

        def arrived() -> None:
            if self.isConfused:
                self.unmatched(lines[0])
            for address, reply in own.items():
                self.tells([address])(reply)

        self.say(octets, arrived)

    def block(self, rcpts: Sequence[tuple[str, str]], own: Mapping[str, str], form: str) -> None:
        """
        353, a reply for each that is listed, and the final one.
        """
        listed = [one for one, reply in rcpts if form == "PRDR" or reply.startswith("352")]
        if not listed:
            self.plain([address for address, _ in rcpts])
            return
        people = [address for address, _ in rcpts]
        begins: list[str] = []
        self.owed += len(listed) + 1  # behind the 353 they are waited for
        self.answer("own", "353 wait", begins.append, self.ignored)
        if not begins[0].startswith("353"):
            # To the client that is the final reply; what follows has not been asked for.
            self.tells(people)(begins[0])
            self.isConfused = True
            self.owed -= len(listed) + 1
        said: dict[str, str] = {}
        for address in listed:

            def arrived(reply: str, address: str = address) -> None:
                said[address] = reply
                if self.isConfused:
                    self.unmatched(reply)

            self.answer("own", own[address], lambda _: None, arrived)

        def final(reply: str) -> None:
            if not reply.startswith("2"):
                self.heard(reply, people)
                return
            for address in people:
                self.tells([address])(said.get(address, reply))

        self.answer("final", "250 2.6.0 taken", lambda _: None, final)
