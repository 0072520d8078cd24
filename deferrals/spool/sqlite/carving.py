"""
What can be read of a damaged database, page by page.

Every page of a tree that is in use is read by itself, whatever has become of the
pages above it: which table a row is of can be seen by its columns.  Whether a
page is in use is said by the pages above it, by the map of the pages that an
auto-vacuum database has, and by the list of those that are free.  Where none of
them can be read it cannot be told from one that was in use once: then what is
only there is held, since it may have been delivered.  So is a recipient that no
index names, where these can be read: its page may be in another one's place.

Content counts when it has the size and the digest that its message's row says.
"""

from __future__ import annotations

import hashlib
import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import attrs

from deferrals.model.ids import formatId
from deferrals.spool.claims import setAside
from deferrals.spool.rows import ASIDE, HELD, LEASED, QUEUED
from deferrals.spool.sqlite.cells import Cell, TreePage, Value, treePage
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.pages import INDEX_INNER, MAGIC, TABLE_INNER, TABLE_LEAF, Pages
from deferrals.spool.sqlite.recovery import saveClock, savedClock

_NO_RECIPIENTS = "without their recipients"

Record = tuple[Value, ...]

#: What is known of a page: nothing; it is in use, in a tree; it is free; it holds
#: the rest of a record that is too long for one page.
_UNKNOWN, _USED, _FREE, _REST = range(4)

#: What an entry of the map of pages says: a root, free, the first of what is too
#: long for its page, another one of that, a page in a tree.
_ROOT, _IDLE, _LONG, _LONGER, _IN_TREE = range(1, 6)

_STATES = {_IDLE: _FREE, _LONG: _REST, _LONGER: _REST, _IN_TREE: _USED}

#: Messages that a text names.
_NAMED = 20

_number, _text = (int, float), (str, type(None))

#: The columns of our tables in a page of a table; the row's number stands for the
#: first of them.
_TABLES: dict[str, Sequence[tuple[type, ...]]] = {
    "messages": ((), (int,), _number, (str,), (int,), (bytes,), _number),
    "history": ((), (int,), (int,), _number, (str,), _text, _text),
    "bodies": ((), (bytes,)),
    "leaving": ((),),
}

#: The same in a page of an index.
_INDEXES: dict[str, Sequence[tuple[type, ...]]] = {
    "recipients": (
        *((int,), (int,), (int,), _number, _text, (str,), (str,), _text, _text, (str,), (int,)),
        *((*_number, type(None)), (*_number, type(None)), (int,), _text, _text, _text),
    ),
    "notes": ((str,), (str,), _number),
    "info": ((str,), (str, int, float)),
    # Where recipients are named beside their table:
    "recipients_queued": ((str,), _number, (int,), (int,)),
    "recipients_due": (_number, (int,), (int,)),
}

#: What is carried over.  (Which destinations are waited for follows from it.)
_CARRIED = ("messages", "bodies", "recipients", "notes", "info", "history", "leaving")

#: The columns that hold the numbers of messages, where those are named.
_NAMES = {"recipients_queued": 2, "recipients_due": 1}


#: The recipients that indexes name; and those that wait, and are not among them.
_INDEXED = "CREATE TEMP TABLE indexed (message, seq, PRIMARY KEY (message, seq)) WITHOUT ROWID"

_UNNAMED = (
    f"SELECT message, seq FROM recipients WHERE status IN ({QUEUED}, {LEASED})"
    " EXCEPT SELECT message, seq FROM indexed"
)


@attrs.define
class Report:
    """
    What has been carried over, and what has not.

    @ivar whole: the numbers of the messages that were carried over.
    @ivar held: of these, those that are held, since they may be delivered.
    @ivar incomplete: the others, by what is wrong with them.
    @ivar pages: the numbers of the pages that cannot be read, or only in part.
    @ivar count: how many pages there are.
    """

    whole: list[int] = attrs.field(factory=list)
    held: list[int] = attrs.field(factory=list)
    incomplete: dict[str, list[int]] = attrs.field(factory=dict)
    pages: list[int] = attrs.field(factory=list)
    count: int = 0

    def __str__(self) -> str:
        words = [f"{len(self.whole)} messages were carried over"]
        if self.held:
            words.append(f"{len(self.held)} of them are held, since they may have been delivered")
        wrong = [number for numbers in self.incomplete.values() for number in numbers]
        if wrong:
            words.append(f"{len(wrong)} are incomplete")
            words += [f"{len(some)} {why}: {_named(some)}" for why, some in self.incomplete.items()]
        if self.pages:
            some = ", ".join(map(str, self.pages[:_NAMED]))
            more = f" and {len(self.pages) - _NAMED} more" if len(self.pages) > _NAMED else ""
            words.append(
                f"{len(self.pages)} of {self.count} pages could not be read as a whole:"
                f" {some}{more}"
            )
        return "; ".join(words)


def _named(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return ", ".join(map(formatId, numbers[:_NAMED])) + more


def _fits(record: Record, columns: Sequence[tuple[type, ...]]) -> bool:
    return len(record) == len(columns) and all(
        not types or isinstance(value, types) for value, types in zip(record, columns, strict=True)
    )


def _table(kind: int, cell: Cell) -> tuple[str, Record]:
    """
    @return: of which table a cell's row is, and its columns; nothing, where it
        is of none that matters.
    """
    record = cell.record
    if record is None:
        return "", ()
    if kind == TABLE_LEAF:
        if len(record) == 6:
            record = (*record, 0)  # as format 1 kept it
        for name, columns in _TABLES.items():
            if record[0] is None and _fits(record, columns):
                return name, (cell.row, *record[1:])
        return "", ()
    for name, columns in _INDEXES.items():
        if _fits(record, columns):
            return name, record
    return "", ()


class PageUsage:
    """
    Which pages are in use.

    @param pages: the database's.
    """

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._state = bytearray(pages.count + 1)
        self._tree = array("L", [0]) * (pages.count + 1)
        self._complete = self._free()
        roots = self._map()
        for root in {1, *self._roots(), *roots}:
            self._walk(root)

    def of(self, number: int) -> int:
        """
        What is known of a page.
        """
        state = self._state[number]
        return _USED if state == _UNKNOWN and self._complete else state

    def tree(self, number: int) -> int:
        """
        @return: the root of the tree that a page is in; 0 where that is not known.
        """
        return self._tree[number]

    def _free(self) -> bool:
        """
        @return: whether the whole list of free pages could be read.
        """
        first, most = self._pages.get(1), self._pages.usable // 4 - 2
        if first[:16] != MAGIC:
            return False
        number, count = (int.from_bytes(first[at : at + 4], "big") for at in (32, 36))
        found = 0
        while number:
            page = self._pages.get(number)
            length = int.from_bytes(page[4:8], "big")
            if not page or length > most or self._state[number] == _FREE:
                return False
            self._state[number] = _FREE
            for at in range(8, 8 + 4 * length, 4):
                leaf = int.from_bytes(page[at : at + 4], "big")
                if not 0 < leaf <= self._pages.count:
                    return False
                self._state[leaf] = _FREE
            found += 1 + length
            number = int.from_bytes(page[:4], "big")
        return found == count

    def _map(self) -> list[int]:
        """
        Read the map of pages.

        @return: the roots of trees that it names.
        """
        first = self._pages.get(1)
        if first[:16] == MAGIC and not any(first[52:56]):
            return []  # there is none
        roots, each = [], self._pages.usable // 5
        for number in range(2, self._pages.count + 1, each + 1):
            for of, what in enumerate(self._entries(number, each), number + 1):
                if what == _ROOT:
                    roots.append(of)
                elif what:
                    self._state[of] = _STATES[what]
            self._state[number] = _FREE  # it is no page of a tree
        return roots

    def _entries(self, number: int, each: int) -> list[int]:
        page = self._pages.get(number)
        there = min(each, self._pages.count - number)
        kinds = list(page[: 5 * there : 5])
        parents = [int.from_bytes(page[at + 1 : at + 5], "big") for at in range(0, 5 * there, 5)]
        isWhole = all(kind <= _IN_TREE for kind in kinds) and all(
            parent <= self._pages.count for parent in parents
        )
        return kinds if page and isWhole else []

    def _roots(self) -> Iterator[int]:
        """
        As the table of tables says.
        """
        page = treePage(self._pages.get(1), self._pages.usable, self._pages.get, 100)
        for cell in [] if page is None else page.cells:
            if cell.record is not None and len(cell.record) == 5:
                root = cell.record[3]
                if isinstance(root, int) and 0 < root <= self._pages.count:
                    yield root

    def _walk(self, root: int) -> None:
        todo, seen = [root], {root}
        while todo:
            number = todo.pop()
            if 0 < number <= self._pages.count:
                self._state[number], self._tree[number] = _USED, root
                for child in self._children(number):
                    if child not in seen:
                        seen.add(child)
                        todo.append(child)

    def _children(self, number: int) -> list[int]:
        page = self._pages.get(number)
        start = 100 if number == 1 else 0
        if page[start : start + 1] not in (bytes([INDEX_INNER]), bytes([TABLE_INNER])):
            return []
        found = treePage(page, self._pages.usable, self._pages.get, start)
        return [] if found is None else [*(cell.child for cell in found.cells), found.last]


class Carving:
    """
    One damaged database.

    @param pages: its pages.
    @param target: a new database, with its tables, in a transaction.
    @param now: the spool's time.
    @param hasFile: whether there is a file of a message's content.
    """

    def __init__(
        self,
        pages: Pages,
        target: sqlite3.Connection,
        now: float,
        hasFile: Callable[[int], bool],
    ) -> None:
        self._pages = pages
        self._target = target
        self._now = now
        self._hasFile = hasFile
        self._usage = PageUsage(pages)
        self._report = Report(count=pages.count)
        self._named: set[int] = set()
        self._info: set[Value] = set()
        self._left: set[Value] = set()
        self._unsure: set[tuple[Value, Value]] = set()
        self._trees: defaultdict[int, set[str]] = defaultdict(set)
        self._contents: dict[int, list[int]] = {_USED: [], _UNKNOWN: []}
        target.execute(_INDEXED)
        self._inserts = {name: self._insertion(name) for name in (*_CARRIED, "indexed")}

    def _insertion(self, table: str) -> str:
        names = [name for _, name, *_ in self._target.execute(f"PRAGMA table_info({table})")]
        verb = "REPLACE" if table == "info" else "IGNORE"
        marks = ", ".join("?" * len(names))
        return f"INSERT OR {verb} INTO {table} ({', '.join(names)}) VALUES ({marks})"

    def run(self) -> Report:
        """
        Carry over what can be read.
        """
        self._rows(_USED)
        self._doubtUnnamed()
        sure = self._numbers()
        self._rows(_UNKNOWN)
        for state in (_USED, _UNKNOWN):
            self._bodies(state)
        self._forgetLeft(sure)
        self._setClock()
        self._judge(sure)
        self._target.execute(
            "INSERT OR IGNORE INTO destinations (name, ready) SELECT destination, min(due)"
            f" FROM recipients WHERE status = {QUEUED} GROUP BY destination"
        )
        self._report.pages.sort()
        return self._report

    def _numbers(self) -> set[int]:
        sql = "SELECT id FROM messages UNION SELECT message FROM recipients"
        return {number for (number,) in self._target.execute(sql)}

    def _each(self, state: int) -> Iterator[tuple[int, TreePage]]:
        """
        All pages of trees of which that is known.
        """
        for number in self._pages.numbers():
            if self._usage.of(number) != state:
                continue
            found = self._page(number)
            if found is not None:
                yield number, found
            if state == _USED and (found is None or found.bad):
                self._report.pages.append(number)

    def _page(self, number: int) -> TreePage | None:
        page, start = self._pages.get(number), 100 if number == 1 else 0
        return treePage(page, self._pages.usable, self._pages.get, start)

    def _rows(self, state: int) -> None:
        """
        Everything but content, which is found here, too.
        """
        for number, page in self._each(state):
            for cell in page.cells:
                table, record = _table(page.kind, cell)
                if table and state == _USED:
                    self._trees[self._usage.tree(number)].add(table)
                if table == "bodies":
                    self._contents[state].append(number)
                elif table in _NAMES:
                    if state == _USED:
                        self._index(record[_NAMES[table] :])
                elif table and not (state == _UNKNOWN and self._isOlder(table, record)):
                    isNew = self._insert(table, record)
                    if isNew and table == "recipients" and state == _UNKNOWN:
                        self._unsure.add((record[0], record[1]))

    def _index(self, key: Record) -> None:
        """
        An index names a recipient.
        """
        number, seq = key
        if isinstance(number, int) and isinstance(seq, int):
            self._named.add(number)
            self._insert("indexed", (number, seq))

    def _doubtUnnamed(self) -> None:
        """
        Each recipient that waits is named in an index, if no part of these is lost:
        of each tree that has a part that cannot be read it is known what else it is.
        """
        trees = {self._usage.tree(number) for number in self._report.pages if number > 1}
        if all(tree and set() < self._trees[tree] <= set(_CARRIED) for tree in trees):
            self._unsure.update(self._target.execute(_UNNAMED))

    def _isOlder(self, table: str, record: Record) -> bool:
        """
        Whether a row that may be of a page that was not in use is not to be
        believed: by C{leaving} files are removed.
        """
        return table == "leaving" or (table == "info" and record[0] in self._info)

    def _insert(self, table: str, record: Record) -> bool:
        """
        @return: whether it was not there.
        """
        if table == "info":
            self._info.add(record[0])
        elif table == "leaving":
            self._left.add(record[0])
        try:
            return self._target.execute(self._inserts[table], record).rowcount == 1
        except (sqlite3.Error, OverflowError):
            return False  # a row that cannot be is one that cannot be read

    def _forgetLeft(self, sure: set[int]) -> None:
        """
        What has left, as is known for sure, is only in pages that are not in use.
        """
        for number in self._left:
            if number in sure:
                self._target.execute("DELETE FROM leaving WHERE message = ?", (number,))
                continue
            for table, column in (("messages", "id"), ("bodies", "id"), ("recipients", "message")):
                self._target.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))

    def _setClock(self) -> None:
        """
        The spool's time is at least that of the newest message; it is that where
        nothing else tells it.
        """
        since, received = self._target.execute(
            "SELECT max(since), max(received) FROM messages"
        ).fetchone()
        said = savedClock(self._target)
        if said is None and since is not None:
            saveClock(self._target, received, since)
        self._now = max(self._now, since or 0.0, said[1] if said is not None else 0.0)

    def _bodies(self, state: int) -> None:
        for number in dict.fromkeys(self._contents[state]):
            page = self._page(number)
            for cell in [] if page is None else page.cells:
                table, record = _table(TABLE_LEAF, cell)
                if table == "bodies":
                    self._body(record, state)

    def _body(self, record: Record, state: int) -> None:
        number, body = record
        sql = "SELECT size, digest FROM messages WHERE id = ?"
        row = self._target.execute(sql, (number,)).fetchone()
        if row is None:
            if state == _USED and isinstance(number, int):
                self._named.add(number)
        elif isinstance(body, bytes) and row == (len(body), hashlib.sha256(body).digest()):
            self._insert("bodies", record)

    def _judge(self, sure: set[int]) -> None:
        """
        Find what is complete, and set the rest aside.
        """
        target, incomplete = self._target, self._report.incomplete
        unsure = {number for number, _ in self._unsure}
        target.executemany(
            f"UPDATE recipients SET status = {HELD}, owner = NULL WHERE message = ? AND seq = ?",
            list(self._unsure),
        )
        for number in sorted(self._numbers() | self._named):
            why = self._lacks(number)
            if not why:
                self._report.whole.append(number)
                if number not in sure or number in unsure:
                    self._report.held.append(number)
                continue
            incomplete.setdefault(why, []).append(number)
            setAside(SqliteLedger(target, self._now), number)
            if why == _NO_RECIPIENTS:
                target.execute(f"UPDATE messages SET state = {ASIDE} WHERE id = ?", (number,))

    def _lacks(self, number: int) -> str:
        def has(sql: str) -> bool:
            return self._target.execute(sql, (number,)).fetchone() is not None

        if not has("SELECT 1 FROM messages WHERE id = ?"):
            return "without their envelope"
        if not has("SELECT 1 FROM recipients WHERE message = ?"):
            return _NO_RECIPIENTS
        if not has("SELECT 1 FROM bodies WHERE id = ?") and not self._hasFile(number):
            return "without their content"
        return ""
