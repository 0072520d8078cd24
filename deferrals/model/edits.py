"""
The changes that filters make in a header section, in the sense of the milter protocol:
one after the other, each in what those before it have made.

Where a field is inserted is said in a section that begins with the server's own
C{Received}, as with Postfix and Sendmail: filters that want to stand right below it say 1.
Ours stays in front of all the same, and what stands above it in that sense comes first
below it.

What it costs grows with the fields and with the edits, and, of an insertion, with the
place where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from deferrals.model.verdict import HeaderEdit

#: What stages are not shown is not counted: copies that go on to other servers have it
#: (L{deferrals.model.ours}).
_HIDDEN = frozenset({b"return-path", b"delivered-to"})


class _HeaderLine:
    """
    @ivar text: C{None} once it is removed.
    @ivar isCounted: whether filters know of it.
    """

    __slots__ = ("isCounted", "name", "text")

    def __init__(self, name: bytes, text: bytes, isCounted: bool) -> None:
        self.name = name
        self.text: bytes | None = text
        self.isCounted = isCounted


#: Stands for the field that is written in front; no name is its own.
_OWN_RECEIVED = _HeaderLine(b"", b"", True)


class _Section:
    """
    @ivar fields: in their order, removed ones among them.
    """

    def __init__(self, lines: Iterable[bytes], write: Callable[[str, str], bytes]) -> None:
        self.fields = [_HeaderLine(_name(line), line, isCounted(line)) for line in lines]
        self._write = write
        self._named: dict[bytes, list[_HeaderLine]] = {}
        for one in self.fields:
            if one.isCounted:
                self._named.setdefault(one.name, []).append(one)
        self.fields.insert(0, _OWN_RECEIVED)

    def apply(self, edit: HeaderEdit) -> None:
        """
        Make one change.
        """
        key = edit.name.lower().encode("ascii")
        if edit.kind == "insert":
            self._insert(key, edit)
            return
        fields = self._named.get(key, [])
        if edit.index > len(fields):
            if edit.kind == "change" and edit.value:
                self._add(key, edit)
        elif edit.kind == "remove" or not edit.value:
            fields.pop(edit.index - 1).text = None
        else:
            fields[edit.index - 1].text = self._write(edit.name, edit.value)

    def _new(self, key: bytes, edit: HeaderEdit) -> _HeaderLine:
        return _HeaderLine(key, self._write(edit.name, edit.value), key not in _HIDDEN)

    def _add(self, key: bytes, edit: HeaderEdit) -> None:
        added = self._new(key, edit)
        self.fields.append(added)
        if added.isCounted:
            self._named.setdefault(key, []).append(added)

    def _insert(self, key: bytes, edit: HeaderEdit) -> None:
        if edit.index >= len(self.fields):  # so it is added, mostly
            self._add(key, edit)
            return
        passed = alike = 0
        for place, one in enumerate(self.fields):
            if one.text is None or not one.isCounted:
                continue
            if passed == edit.index:
                added = self._new(key, edit)
                self.fields.insert(place, added)
                if added.isCounted:
                    self._named.setdefault(key, []).insert(alike, added)
                return
            passed += 1
            alike += one.name == key
        self._add(key, edit)


def isCounted(line: bytes) -> bool:
    """
    Whether filters are told of a line of a header section: it is a field, and stages are
    shown it.
    """
    return b":" in line and _name(line) not in _HIDDEN


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].strip().lower()


def edited(
    lines: Sequence[bytes], edits: Iterable[HeaderEdit], write: Callable[[str, str], bytes]
) -> list[bytes]:
    """
    @param lines: the fields of a header section, each with its folded lines.
    @param write: makes a field of its name and its value.
    @return: the fields as they are then.
    """
    section = _Section(lines, write)
    for edit in edits:
        section.apply(edit)
    kept = [one for one in section.fields if one is not _OWN_RECEIVED]
    return [one.text for one in kept if one.text is not None]
