"""
What senders were told, what has arrived, and whether these fit together: every
copy counts.

  - what was acknowledged for a recipient has arrived there, whole; where the
    recipient is refused for good later on, its sender has a notice;
  - who refused has nothing;
  - a second copy has an explanation (L{tests.crash.explained}): the server was killed so
    soon after the first that it could not have written it down;
  - no notice is about a recipient that did not fail, or that its sender was told of.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from deferrals.stages.content.match.stage import GTUBE
from tests.crash.explained import Copy, Nap, around, isExplained

#: A message this large is in a file of its own.
LARGE_OCTETS = 300_000

#: Counts that must be zero.
WRONG = (
    *("lost", "torn", "to refusers", "unexplained duplicates", "untrue notices"),
    "answered twice",
)

#: A message and one of its recipients, or whom a notice is for.
Key = tuple[int, str]

NOTICE = "(notice)"


class Books:
    """
    What the senders know.

    @ivar accepted: message and recipient of every 2xx that was read, and when.
    @ivar refused: the same for refusals.
    @ivar begun: message and recipient of all that were begun, and when.
    @ivar kinds: how many messages of each kind had a final answer.
    @ivar told: the messages whose sender is told what fails.
    @ivar receipts: the messages whose sender is told what is delivered.
    @ivar handedBack: those of the refusals that came behind a first attempt to deliver it.
    @ivar twice: what a sender was told that it had not asked for, and about when.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0
        self.accepted: dict[Key, float] = {}
        self.refused: dict[Key, float] = {}
        self.begun: dict[Key, float] = {}
        self.kinds: defaultdict[str, int] = defaultdict(int)
        self.told: set[int] = set()
        self.receipts: set[int] = set()
        self.handedBack: set[Key] = set()
        self.twice: list[Key] = []

    def next(self, recipients: Sequence[str], hasSender: bool, isReceipted: bool = False) -> int:
        """
        A new message.

        @param isReceipted: whether its sender wants to know that it was delivered.

        @return: its number.
        """
        with self.lock:
            self.number += 1
            now = time.monotonic()
            self.begun.update({(self.number, one): now for one in recipients})
            if hasSender:
                self.told.add(self.number)
            if isReceipted:
                self.receipts.add(self.number)
            return self.number

    def note(self, number: int, kind: str, answers: dict[str, str], isTried: bool = False) -> None:
        """
        Final answers: 2xx is taken, all else is not.

        @param isTried: whether a delivery was tried before that.
        """
        now = time.monotonic()
        with self.lock:
            self.kinds[kind] += 1
            for recipient, code in answers.items():
                book = self.accepted if code.startswith("2") else self.refused
                book[number, recipient] = now
                if isTried and book is self.refused:
                    self.handedBack.add((number, recipient))

    def due(self) -> set[Key]:
        """
        What has to arrive: mail, or a notice.
        """
        with self.lock:
            accepted = list(self.accepted)
        found = set()
        for number, recipient in accepted:
            if not recipient.startswith("gone-"):
                found.add((number, recipient))
                if number in self.receipts:
                    found.add((number, NOTICE))
            elif number in self.told:
                found.add((number, NOTICE))
        return found


def content(number: int, spam: bool = False, large: bool = False) -> bytes:
    """
    A message that says what it is: its number, and the hash of its body.
    """
    body = b"line of text\r\n" * (LARGE_OCTETS // 14 if large else number % 20)
    body += GTUBE.encode() + b"\r\n" if spam else b""
    digest = hashlib.sha256(body).hexdigest()
    ident = f"Message-ID: <{number}@rig.test>\r\nDate: Sun, 29 Nov 2026 09:00:00 +0000\r\n"
    return f"{ident}X-Number: {number}\r\nX-Digest: {digest}\r\n\r\n".encode() + body


@attrs.define
class Arrived:
    """
    Every copy.

    @ivar at: when each came, by what it is; C{0.0} where that is not known.
    @ivar torn: those that are not whole.
    """

    at: defaultdict[Key, list[Copy]] = attrs.field(factory=lambda: defaultdict(list))
    torn: list[Key] = attrs.field(factory=list)

    def add(self, key: Key, at: float, isWhole: bool, began: float = 0.0, by: int = 0) -> None:
        """
        One more.

        @param began: when its delivery did, where that is known.
        @param by: the process that has made it.
        """
        self.at[key].append(Copy(at, began or at, by))
        if not isWhole:
            self.torn.append(key)


class CopiesReader:
    """
    What the delivery C{copies} has written.
    """

    def __init__(self, path: str) -> None:
        self.path, self._at = path, 0

    def more(self, arrived: Arrived) -> None:
        """Add what has come since the last time."""
        if not os.path.exists(self.path):
            return
        with open(self.path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if line.endswith(b"\n"):
                    self._at += len(line)
                    entry = json.loads(line)
                    to = NOTICE if entry["notice"] else entry["to"]
                    key, whose = (entry["number"], to), (entry["began"], entry["by"])
                    arrived.add(key, entry["at"], entry["whole"], *whose)


class MaildirReader:
    """
    What is in a mailbox.  It has one copy of each message, since the server gives
    each the same name every time: what is torn or lost there is seen.
    """

    def __init__(self, directory: str, address: str) -> None:
        self.directory, self.address = directory, address
        self._known: set[str] = set()

    def more(self, arrived: Arrived) -> None:
        """Add what has come since the last time."""
        names = set(os.listdir(self.directory)) if os.path.isdir(self.directory) else set()
        for name in names - self._known:
            with open(os.path.join(self.directory, name), "rb") as file:
                number, isWhole = judged(file.read())
            arrived.add((number, self.address), 0.0, isWhole)
        self._known |= names


def judged(data: bytes) -> tuple[int, bool]:
    """
    @return: a message's number, and whether it is whole.
    """
    found = re.search(rb"^X-Number: (\d+)\r?\nX-Digest: (\w+)", data, re.M)
    if found is None:
        return -1, False
    body = re.split(rb"\r?\n\r?\n", data[found.end() :], maxsplit=1)[-1]
    body = re.sub(rb"\r?\n", b"\r\n", body)
    return int(found[1]), hashlib.sha256(body).hexdigest().encode() == found[2]


def closed(
    books: Books,
    arrived: Arrived,
    kills: Sequence[float],
    naps: Sequence[Nap] = (),
    isAway: Callable[[float], bool] = lambda at: False,
) -> dict[str, Any]:
    """
    Close the books.

    @param kills: when there were any.
    @param naps: who was stopped, and thought dead.
    @param isAway: whether what senders were told at a time may not have been written: then
        a recipient that was handed back may have it, and who has died cannot say so.
    @return: the counts; those of L{WRONG} with examples under C{examples}.
    """
    missing = books.due() - arrived.at.keys()
    unsaid = {key for key in books.handedBack if isAway(books.refused[key])}
    refusers = [key for key in arrived.at if key in books.refused and key not in unsaid]
    twice = {key: sorted(times) for key, times in arrived.at.items() if len(times) > 1}
    unexplained = [key for key, times in twice.items() if not isExplained(times, kills, naps)]
    begun = books.begun.keys() - books.refused.keys()
    gone = {number for number, recipient in begun if recipient.startswith("gone-")}
    tellable = gone & books.told | books.receipts
    notices = [key for key in arrived.at if key[1] == NOTICE]
    numbers = {number for number, _ in unsaid}
    untrue = [key for key in notices if key[0] not in tellable | numbers]
    found = (sorted(missing), arrived.torn, refusers, unexplained, untrue, books.twice)
    wrong: dict[str, list[Any]] = {name: [*ones] for name, ones in zip(WRONG, found, strict=True)}
    answered = len(books.accepted) + len(books.refused)
    return {
        "messages": books.number,
        "kinds": dict(sorted(books.kinds.items())),
        "accepted": len(books.accepted),
        "refused": len(books.refused),
        "unanswered": len(books.begun) - answered,
        "delivered": len(arrived.at),
        "notices": len(notices),
        "handed back, unwritten": len(unsaid & arrived.at.keys())
        + len([key for key in notices if key[0] in numbers - tellable]),
        "duplicates": sum(len(times) - 1 for times in twice.values()),
        **{name: len(found) for name, found in wrong.items()},
        "copies": {str(key): around(twice[key], kills, naps) for key in unexplained[:5]},
        "examples": {
            name: [list(key) for key in found[:5]] for name, found in wrong.items() if found
        },
    }


def isRight(counts: dict[str, Any]) -> bool:
    """
    Whether every promise was kept.
    """
    return not any(counts[name] for name in WRONG)
