"""
Sieve scripts (RFC 5228), as far as they are looked at before an engine runs them; and
what the engine, Pigeonhole's C{sieve-test}, says of a run.

What a script means is the engine's alone.  Here is only which commands and tests it
names, and how C{ereject} is spelled for an engine that does not know it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import attrs

from deferrals.model.text import cleaned

#: Only scripts that name one of these are run: no other can refuse, or throw away.
DECIDING = frozenset({"discard", "ereject", "reject"})

#: What is answered out of the store itself, and so by the store alone; with what it is
#: that is asked for there.
STORES = {
    "duplicate": "what came before",
    "environment": "the store's environment",
    "execute": "a program of the store's",
    "filter": "a program of the store's",
    "include": "another script",
    "mailboxexists": "mailboxes",
    "mailboxidexists": "mailboxes",
    "metadata": "annotations of mailboxes",
    "metadataexists": "annotations of mailboxes",
    "pipe": "a program of the store's",
    "servermetadata": "annotations of the store",
    "servermetadataexists": "annotations of the store",
    "specialuse_exists": "mailboxes",
    "virustest": "a result of the store's",
}

#: So much of a user's text a sender is told.
REASON_OCTETS = 400

#: Comments, strings, names, and anything else: each piece begins where one ends.
_TOKEN = re.compile(
    rb"\#[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?+"
    rb'|(?P<string>"(?:[^"\\]++|\\.)*+"?+'
    rb"|text:[ \t]*+(?:\#[^\n]*+)?+\r?+\n(?:(?!\.\r?$)[^\n]*+\n)*+[^\n]*+)"
    rb"|(?P<name>[a-z_][a-z0-9_.]*+)|.",
    re.S | re.M | re.I | re.X,
)

_REJECT = " * reject message with reason: "
_DISCARD = " * discard"
_BEGIN, _END = "Performed actions:\n", "\nImplicit keep:\n"


@attrs.frozen
class Script:
    """
    One script.

    @ivar digest: the SHA-256 of its octets.
    @ivar names: the commands and tests in it, in lower case; and some names more.
    @ivar octets: itself, where it is to be run, with C{reject} for C{ereject}.
    """

    digest: bytes
    names: frozenset[str]
    octets: bytes

    @classmethod
    def read(cls, octets: bytes) -> Script:
        """
        Whatever it is: what is no script is the engine's to say.
        """
        names = frozenset(
            match["name"].decode("ascii").lower()
            for match in _TOKEN.finditer(octets)
            if match["name"]
        )
        kept = _withReject(octets) if "ereject" in names else octets
        isRun = not names.isdisjoint(DECIDING)
        return cls(hashlib.sha256(octets).digest(), names, kept if isRun else b"")

    @property
    def decides(self) -> bool:
        """
        Whether it may refuse, or throw away.
        """
        return not self.names.isdisjoint(DECIDING)

    @property
    def asksStore(self) -> str:
        """
        What only the store could tell it; empty where there is no such thing.
        """
        asked = sorted(self.names & STORES.keys())
        return f"it asks for {STORES[asked[0]]} ({asked[0]})" if asked else ""

    @property
    def asksEnvelope(self) -> bool:
        """
        Whether what it decides may be another for each recipient and sender.
        """
        return "envelope" in self.names

    @property
    def asksScore(self) -> bool:
        """
        Whether it goes by a spam score.
        """
        return "spamtest" in self.names


def _withReject(octets: bytes) -> bytes:
    """
    A script with C{reject} for C{ereject}: the command, and the capability where it is
    required or asked for.
    """
    pieces = []
    command = b""
    for match in _TOKEN.finditer(octets):
        piece, name = match[0], match["name"]
        if name:
            command = name.lower()
            piece = b"reject" if command == b"ereject" else piece
        elif piece in (b";", b"{", b")"):
            command = b""
        elif command in (b"require", b"ihave") and piece.lower() == b'"ereject"':
            piece = b'"reject"'
        pieces.append(piece)
    return b"".join(pieces)


@attrs.frozen
class Decision:
    """
    What a script has come to.

    @ivar kind: the message is refused, thrown away, or the store's affair.
    @ivar reason: the user's text, in one line, where it is refused.
    """

    kind: Literal["reject", "discard", "store"]
    reason: str = ""


STORE = Decision("store")


def decisionOf(said: str, hasMarks: bool = False) -> Decision:
    """
    Read what the engine has printed of a run that it calls a success.

    @param hasMarks: whether the script itself has two question marks in a row: the
        engine prints them for a line's end, too.
    """
    before, begin, rest = said.partition(_BEGIN)
    performed, end, kept = rest.rpartition(_END)
    if before.strip() or not (begin and end) or kept.strip() != "(none)":
        return STORE
    actions = [line for line in performed.split("\n") if line.strip()]
    reasons = [line.removeprefix(_REJECT) for line in actions if line.startswith(_REJECT)]
    others = [line for line in actions if not line.startswith(_REJECT) and line != _DISCARD]
    if others or not actions:
        return STORE
    if not reasons:
        return Decision("discard")
    return Decision("reject", _oneLine(reasons[0] if hasMarks else reasons[0].replace("??", " ")))


def _oneLine(reason: str) -> str:
    """
    A user's text, cleaned and cut.
    """
    text = cleaned(" ".join(reason[: 4 * REASON_OCTETS].split()))
    return text.encode("utf-8")[:REASON_OCTETS].decode("utf-8", "ignore").rstrip()
