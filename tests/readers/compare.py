"""
What readers show, and C{match} does not see.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from deferrals.stages.content.match.archives import Budget, Unreadable, members
from deferrals.stages.content.match.contents import files
from deferrals.stages.content.match.mime import TooComplex
from deferrals.stages.content.match.names import savedNames
from tests.readers.dump import rspamd
from tests.readers.exemptions import EXEMPTIONS, Difference, trimmed
from tests.readers.imap import dovecot
from tests.readers.item import Shown
from tests.readers.shown import python

_LIMIT = 10_000_000
_ANY = list(HealthCheck)

#: What was not compared, and why: how often.
Exempted = Counter[str]

#: A message of which nothing is compared.
REFUSED = "messages that `match` refuses because they are too complex: not compared"


class Seen:
    """
    What C{match} sees of a message; of one that it refuses, everything.
    """

    def __init__(self, data: bytes) -> None:
        self.names: set[str] = set()
        self.contents: set[bytes] = set()
        self.boundaries: set[bytes] = set()
        self.refused = False
        try:
            for file in files(data):
                for name in file.header.names:
                    self.names.update(savedNames(name))
                for boundary in file.header.boundaries:
                    octets = boundary.encode("utf-8", "surrogateescape")
                    self.boundaries.add(octets.rstrip()[:80].lower())
                self.contents.add(trimmed(file.content(_LIMIT)))
        except TooComplex:
            self.refused = True

    def ofOther(self, message: bytes) -> Seen:
        """
        Likewise, of another message.
        """
        return Seen(message)

    def hasName(self, name: bytes) -> bool:
        """
        A rule sees the name as it is shown; no case, no blanks around it.
        """
        shown = _forms(name)
        return self.refused or "" in shown or not shown.isdisjoint(self.names)

    def hasContent(self, content: bytes) -> bool:
        """
        A file begins and ends as it is shown, but for line ends and the blanks
        around it.
        """
        return self.refused or trimmed(content) in self.contents


def _forms(name: bytes) -> set[str]:
    """
    A name in octets may be in several character sets.
    """
    forms = {name.decode("utf-8", "surrogateescape")}
    forms |= {name.decode(codec, "replace") for codec in ("utf-8", "cp1252", "cp437")}
    return {form.strip().lower() for form in forms}


def missing(data: bytes, reader: str, shown: Shown, exempted: Exempted) -> Iterator[Difference]:
    """
    What is not seen of one message.
    """
    seen = Seen(data)
    if seen.refused:
        exempted[REFUSED] += reader == "python"
        return
    names = [Difference(reader, data, name=one) for one in shown.names if not seen.hasName(one)]
    contents = [
        Difference(reader, data, content=one) for one in shown.contents if not seen.hasContent(one)
    ]
    for one in (*names, *contents):
        why = next((why.reason for why in EXEMPTIONS if why.applies(one, seen)), None)
        if why is None:
            yield one
        else:
            exempted[why] += 1


def everyReader(messages: Sequence[bytes]) -> dict[str, list[Shown]]:
    """
    What each reader shows of each message.
    """
    everybody = {
        "python": [python(one) for one in messages],
        "dovecot": dovecot(messages),
        "rspamd": rspamd(messages),
    }
    for reader, shown in everybody.items():
        assert len(shown) == len(messages), (reader, len(shown), len(messages))
    return everybody


def differences(messages: Sequence[bytes], exempted: Exempted) -> list[Difference]:
    """
    What is not seen of several.
    """
    found: list[Difference] = []
    for reader, shown in everyReader(messages).items():
        for message, one in zip(messages, shown, strict=True):
            found += missing(message, reader, one, exempted)
    return found


def case(message: bytes) -> dict[str, str | list[str]]:
    """
    @return: for the corpus: a message with all that readers show of it and
        C{match} sees.
    """
    seen = Seen(message)
    readers = [shown for (shown,) in everyReader([message]).values()]
    names = {name for one in readers for name in one.names if name and seen.hasName(name)}
    contents = {one for shown in readers for one in shown.contents if seen.hasContent(one)}
    return {
        "message": message.decode("latin-1"),
        "names": sorted(one.decode("latin-1") for one in names),
        "contents": sorted(one.decode("latin-1") for one in contents),
    }


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


def _unslashed(name: str) -> bytes:
    """
    Some put a slash behind what they take for a directory, by its attributes.
    """
    return (name.rstrip("/") or name).encode("utf-8", "surrogateescape")


def archived(data: bytes, name: str, shown: dict[str, set[str]]) -> set[tuple[str, str]]:
    """
    @return: readers, and names of an archive's members that are not seen.
    """
    seen: set[str] = set()
    try:
        for one in members(io.BytesIO(data), [name], Budget()):
            seen.update(savedNames(one))
    except Unreadable:
        pass
    return {
        (reader, one)
        for reader, names in shown.items()
        for one in names
        if any(map(str.isalnum, one)) and _forms(_unslashed(one)).isdisjoint(seen)
    }
