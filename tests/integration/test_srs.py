"""
Our SRS beside that of postsrsd, both ways.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Sequence
from urllib.parse import quote, unquote

from deferrals.model.address import Mailbox
from deferrals.model.srs import DAY_SECONDS, SRS, SRSError
from tests.integration.support import IntegrationCase, program
from tests.ports import freePort

#: So many addresses of each kind, and so many asked about at once.
MANY, BATCH = 4000, 200

_SEED = 20261129
_LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    "!#$&'*/?^_`{|}~.=+-%\u00e4\u00df\u0436"
)


class Postsrsd:
    """
    The daemon, with its two tables.
    """

    def __init__(self, case: IntegrationCase, domain: str, secrets: Sequence[bytes]) -> None:
        path = program("postsrsd")
        directory = case.directory()
        secret = os.path.join(directory, "secret")
        with open(secret, "wb") as file:
            file.write(b"".join(one + b"\n" for one in secrets))
        self._forward, self._reverse = freePort(), freePort()
        argv = [path, f"-s{secret}", f"-d{domain}", "-l127.0.0.1", "-4"]
        argv += [f"-f{self._forward}", f"-r{self._reverse}"]
        case.daemon(argv, directory, self._answers, "postsrsd")

    def _answers(self) -> bool:
        try:
            return bool(self.forward(["a@b.example"]))
        except ConnectionError:
            return False

    def forward(self, addresses: Sequence[str]) -> list[str | None]:
        """
        What it makes of senders; C{None} for nothing.
        """
        return _ask(self._forward, addresses)

    def reverse(self, addresses: Sequence[str]) -> list[str | None]:
        """
        What it makes of its own addresses.
        """
        return _ask(self._reverse, addresses)


def _ask(port: int, addresses: Sequence[str]) -> list[str | None]:
    found: list[str | None] = []
    with socket.create_connection(("127.0.0.1", port), 10) as one, one.makefile("rb") as file:
        for start in range(0, len(addresses), BATCH):
            part = addresses[start : start + BATCH]
            one.sendall("".join(f"get {quote(text, safe='@')}\n" for text in part).encode())
            for _ in part:
                code, _, text = file.readline().decode().rstrip("\n").partition(" ")
                found.append(unquote(text) if code == "200" else None)
    return found


def _plain(text: str) -> str:
    """
    An address with its domain in the one spelling that ours have.
    """
    local, _, domain = text.rpartition("@")
    return f"{local}@{domain.lower()}"


def senders(chance: random.Random) -> list[Mailbox]:
    """
    Senders of all sorts, some of whom others have forwarded.
    """
    found = []
    for _ in range(MANY):
        local = "".join(chance.choice(_LETTERS) for _ in range(chance.randint(1, 40)))
        domain = ".".join(
            "".join(chance.choice(_LETTERS[:26]) for _ in range(chance.randint(1, 12)))
            for _ in range(chance.randint(1, 4))
        )
        tag = chance.choice(("SRS0", "srs0", "Srs0", "SRS1", "SRS2"))
        sep, text = chance.choice("=+-"), chance.choice("=+-")
        form = chance.choice(
            (
                local,
                local,
                f"{tag}{sep}a+/b=RA={domain}={local}",
                f"{tag}{sep}aBcd=first.example={text}hash=RA={domain}={local}",
                f"{tag}{sep}{local.replace('=', '')}",
            )
        )
        found.append(Mailbox(form, domain))
    return found


class PostsrsdTests(IntegrationCase):
    """
    L{SRS} and a real postsrsd with the same secrets.
    """

    def setUp(self) -> None:
        secrets = (b"tell no one", b"what was said before")
        self.ours = SRS("here.example", secrets)
        self.theirs = Postsrsd(self, "here.example", secrets)
        self.chance = random.Random(_SEED)
        self.now = time.time()

    def ourReverse(self, text: str) -> str | None:
        local, _, domain = text.rpartition("@")
        try:
            found = self.ours.reverse(Mailbox(local, domain), self.now)
        except SRSError:
            return None
        return f"{found.local}@{found.domain}"

    def test_senders(self) -> None:
        """Each sender becomes the same, and each of us finds what the other has made."""
        asked = senders(self.chance)
        made = [self.ours.forward(one, self.now) for one in asked]
        theirs = self.theirs.forward([f"{one.local}@{one.domain}" for one in asked])
        ours = [f"{one.local}@{one.domain}" for one in made]
        differ = [
            (one, other)
            for one, other in zip(ours, theirs, strict=True)
            # of a tag without the rest, it makes nothing: for us it is any local part
            if one != other and other is not None
        ]
        self.assertEqual(differ, [])
        self.assertGreater(sum(one is not None for one in theirs), MANY * 0.8)
        back = [one and _plain(one) for one in self.theirs.reverse(ours)]
        self.assertEqual([self.ourReverse(one) for one in ours], back)
        self.assertNotIn(None, back)

    def test_changed(self) -> None:
        """What was changed on the way is refused by both, or by neither."""
        made = [self.ours.forward(one, self.now) for one in senders(self.chance)]
        asked = []
        for one in made:
            local = list(one.local)
            place = self.chance.randrange(5, len(local))
            local[place] = self.chance.choice((self.chance.choice(_LETTERS), "", local[place] * 2))
            if self.chance.random() < 0.2:
                local = list(one.local.swapcase())
            asked.append(f"{''.join(local)}@here.example")
        theirs = [one and _plain(one) for one in self.theirs.reverse(asked)]
        ours = [self.ourReverse(one) for one in asked]
        differ = [one for one, *found in zip(asked, ours, theirs, strict=True) if len({*found}) > 1]
        # Of a hash that is too long, postsrsd reads as much as it would make.
        self.assertEqual([one for one in differ if len(one[5:].partition("=")[0]) <= 4], [])
        self.assertLess(len(differ), MANY * 0.05)
        self.assertGreater(theirs.count(None), MANY * 0.5)

    def test_old(self) -> None:
        """Both refuse what was made too long ago, or will be, and what an unknown secret signed."""
        other = SRS("here.example", (b"unknown",))
        older = SRS("here.example", (b"what was said before",))
        asked = []
        for age in range(-3, 1030):
            srs = older if age % 2 else self.ours
            made = srs.forward(Mailbox("me", f"d{age}.example"), self.now - age * DAY_SECONDS)
            asked.append(str(made))
        asked.append(str(other.forward(Mailbox("me", "other.example"), self.now)))
        theirs = self.theirs.reverse(asked)
        self.assertEqual([self.ourReverse(one) for one in asked], theirs)
        # 1024 days later, the day has the same name
        good = [one for one in theirs if one is not None]
        self.assertEqual(len(good), 22 + 6)
