"""
A file of aliases on the disk, with those that it includes: read in a thread, and again
when one of them has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from deferrals.model.aliasfile import INCLUDE, Book, Format, readBook, readIncluded
from deferrals.operatorfiles import Version, readText, versionOf

#: So many files may include each other.
MAX_NESTING = 10


@attrs.frozen
class Loaded:
    """
    @ivar book: what the file says; C{:include:} is resolved.
    @ivar versions: what was read, by path.
    """

    book: Book
    versions: dict[str, Version]

    def isCurrent(self) -> bool:
        """
        Whether no file has changed since.  For a thread.
        """
        return all(versionOf(path) == version for path, version in self.versions.items())


def load(path: str, form: Format) -> Loaded:
    """
    Read a file.  For a thread.

    @raise OSError: it cannot be read.
    @raise ValueError: it is too large, or no UTF-8.
    """
    reading = _Reading()
    book = readBook(reading.text(path), form)
    for alias, members in list(book.members.items()):
        if any(member.startswith(INCLUDE) for member in members):
            try:
                book.members[alias] = reading.resolved(members, ())
            except (OSError, ValueError) as error:
                del book.members[alias]
                book.faults[alias] = str(error)
                book.problems.append((0, f"{alias}: {error}"))
    return Loaded(book, reading.versions)


class _Reading:
    """
    Files that are being read: each once.

    @ivar versions: what was read, by path.
    """

    def __init__(self) -> None:
        self.versions: dict[str, Version] = {}
        self._members: dict[str, Sequence[str]] = {}

    def text(self, path: str) -> str:
        """
        @raise OSError: it cannot be read.
        @raise ValueError: it is too large, or no UTF-8.
        """
        self.versions[path] = versionOf(path)
        return readText(path)

    def resolved(self, members: Sequence[str], within: tuple[str, ...]) -> Sequence[str]:
        """
        Members, with those of the files that they name.

        @param within: the files on the way to them.
        @raise OSError: a file cannot be read.
        @raise ValueError: one is no such file, or they include each other.
        """
        found: dict[str, None] = {}
        for member in members:
            if member.startswith(INCLUDE):
                found.update(dict.fromkeys(self._included(member[len(INCLUDE) :], within)))
            else:
                found[member] = None
        return tuple(found)

    def _included(self, path: str, within: tuple[str, ...]) -> Sequence[str]:
        if path in within:
            return ()  # it is being read
        if len(within) >= MAX_NESTING:
            raise ValueError(f"more than {MAX_NESTING} files include each other")
        if path not in self._members:
            try:
                listed = readIncluded(self.text(path))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self._members[path] = self.resolved(listed, (*within, path))
        return self._members[path]
