"""
What readers show, and C{match} does not see.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from deferrals.stages.content.match.archives import Budget, Unreadable, members
from deferrals.stages.content.match.contents import files
from deferrals.stages.content.match.mime import TooComplex
from deferrals.stages.content.match.names import savedNames
from tests.readers.shown import Shown, dovecot, python, rspamd

_CONTROLS = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f-\xff?]+")
_NOT_ASCII = re.compile(r"[^ -~]+|\?+")
_LIMIT = 10_000_000
_ANY = list(HealthCheck)


@attrs.frozen
class Difference:
    """
    What a reader shows of a message that C{match} does not see.
    """

    reader: str
    message: bytes
    name: str | None = None
    content: bytes | None = None


class Seen:
    """
    What C{match} sees of a message; of one that it refuses, everything.
    """

    def __init__(self, data: bytes) -> None:
        self.names: set[str] = set()
        contents: list[bytes] = []
        self.refused = False
        try:
            for file in files(data):
                for name in file.header.names:
                    self.names.update(map(_ascii, savedNames(name)))
                contents += [file.content(_LIMIT), *(one.encode() for one in file.texts(_LIMIT))]
        except TooComplex:
            self.refused = True
        self._contents = b"\0\0".join(map(_plain, contents))

    def hasName(self, name: str) -> bool:
        wanted = {_ascii(one) for one in savedNames(name)}
        return self.refused or not wanted or not self.names.isdisjoint(wanted)

    def hasContent(self, content: bytes) -> bool:
        return self.refused or _plain(content) in self._contents


def _ascii(name: str) -> str:
    """
    Readers differ in what they show of octets in no character set.
    """
    return _NOT_ASCII.sub("?", name)


def _isKnown(reader: str, data: bytes, content: bytes) -> bool:
    """
    Differences that remain; C{docs/stages/match.md} says why.
    """
    if _plain(content) in _plain(data):
        return True  # it could not undo the encoding, and shows what it found
    if reader == "python" and content.startswith(b"From me"):
        return True  # it moves that line from the header's end into the content
    return reader == "rspamd" and content.startswith(b"J\xe6\xe3y")  # "Subj", as base64


def _plain(content: bytes) -> bytes:
    """
    Line ends and blanks around it say nothing; rspamd and
    doveadm show something else for controls and octets beyond ASCII.
    """
    return _CONTROLS.sub(b"?", content.replace(b"\r", b"").strip())


def missing(data: bytes, reader: str, shown: Shown) -> Iterator[Difference]:
    """
    What is not seen of one message.
    """
    seen = Seen(data)
    for name in shown.names:
        closed = name.removesuffix(")")  # Python closes comments that are not closed
        if not seen.hasName(name) and not (reader == "python" and seen.hasName(closed)):
            yield Difference(reader, data, name)
    for content in shown.contents:
        if not seen.hasContent(content) and not _isKnown(reader, data, content):
            yield Difference(reader, data, None, content)


def differences(messages: Sequence[bytes]) -> list[Difference]:
    """
    What is not seen of several.
    """
    found: list[Difference] = []
    everybody = {
        "python": [python(one) for one in messages],
        "dovecot": dovecot(messages),
        "rspamd": rspamd(messages),
    }
    for reader, shown in everybody.items():
        assert len(shown) == len(messages), (reader, len(shown), len(messages))
        for message, one in zip(messages, shown, strict=True):
            found += missing(message, reader, one)
    return found


def made(strategy: SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """
    @return: so many examples of hypothesis's, always the same ones.
    """
    found: list[Any] = []
    settle = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=_ANY,
    )
    keep: Callable[[Any], None] = found.append
    seed(number)(settle(given(strategy)(lambda one: keep(one))))()
    return found[:count]


def archived(data: bytes, name: str, shown: set[str]) -> set[str]:
    """
    @return: names of an archive's members that are not seen.
    """
    seen: set[str] = set()
    try:
        for one in members(io.BytesIO(data), [name], Budget()):
            seen.update(savedNames(one))
    except Unreadable:
        pass
    return {one for one in shown if savedNames(one) and seen.isdisjoint(savedNames(one))}
