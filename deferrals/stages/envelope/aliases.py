"""
The envelope stage C{aliases}: which addresses stand for others, from a file as
sendmail and Postfix have it.

The file is read in a thread, and again when it has changed, which is looked after
once a second at most; meanwhile, what it said counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.deferreds import SharedResult
from deferrals.errors import TableError
from deferrals.interfaces import IEnvelopeStage, IServices, ITable
from deferrals.logger import Logger
from deferrals.model.address import AddressError, Mailbox, comparable, separator
from deferrals.model.aliasfile import INCLUDE, Format, mailboxOf, readMember
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.reply import R451_LOCAL_ERROR, R451_NO_LOOK_UP
from deferrals.model.rowlists import listed
from deferrals.model.settings import BadSetting, TableName, checked, positive
from deferrals.model.tablekeys import TableKeys
from deferrals.model.verdict import Expand, Refuse
from deferrals.stages.envelope.aliasbook import Loaded, load

_log = Logger(namespace="deferrals.stages")

#: What the file says is as old as this at most, in seconds, where mail comes in.
STALE_SECONDS = 1.0

#: So many faults of a file are logged each time that it is read.
MAX_FAULTS = 20


def _count(value: int) -> None:
    if value < 0:
        raise ValueError("a number from 0 on")


@attrs.frozen
class AliasesSettings:
    """
    One of C{file} and C{table} says where the aliases are.

    @ivar file: a file of aliases; read again when it has changed.
    @ivar table: the name of one of C{[tables]}, with a row for each address (or
        C{*@domain}) that is an alias: its members are in the column C{members}, or
        are all that the row says.
    @ivar format: how the file is written: C{"aliases"}, C{name: member, member}, as
        /etc/aliases is, which is the default; or C{"virtual"}, C{name@domain member,
        member}, with C{@domain} for all other names of a domain, as virtual alias maps
        are.
    @ivar nesting: so many aliases may stand in each other: beyond, the alias is refused
        for now, and the log says why.
    @ivar members: so many addresses may come of one alias, likewise.
    @ivar refusers: what becomes of the copies of members that refuse what others
        accept: C{"file"}, to their policy's C{quarantine}, or C{"drop"}.  Senders are
        never told.
    @ivar later: so often is an alias refused for now because one of its members is;
        then that one counts as one that refuses.
    @ivar subaddress: the character that begins a subaddress: with C{"+"}, C{anna+lists}
        is looked up as such, and then as C{anna}; by default the rule's.
    """

    file: str | None = None
    table: TableName | None = None
    format: Format | None = None
    nesting: int = attrs.field(default=10, validator=checked(positive))
    members: int = attrs.field(default=1000, validator=checked(positive))
    refusers: Literal["file", "drop"] = "file"
    later: int = attrs.field(default=3, validator=checked(_count))
    subaddress: str | None = attrs.field(default=None, validator=checked(separator))

    def __attrs_post_init__(self) -> None:
        if (self.file is None) == (self.table is None):
            raise BadSetting("file", "either file or table")
        if self.table is not None and self.format is not None:
            raise BadSetting("format", "this key beside file alone: a table has columns")

    @property
    def form(self) -> Format:
        """
        How the file is written.
        """
        return self.format or "aliases"


@implementer(IEnvelopeStage)
class AliasesStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: AliasesSettings, services: IServices) -> None:
        self._settings = settings
        self._source = self._opened(services)

    def _opened(self, services: IServices) -> ITable | AliasFile:
        settings, form = self._settings, self._settings.form
        if settings.table is not None:
            return services.table(settings.table)
        assert settings.file is not None
        path = os.path.abspath(os.path.join(services.baseDir, settings.file))
        return services.common((__name__, path, form), lambda: AliasFile(path, form, services))

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> Expand | Refuse | Deferred[Expand | Refuse | None] | None:
        """
        At once, where the file has just been looked at.
        """
        source = self._source
        if not isinstance(source, AliasFile):
            return Deferred.fromCoroutine(self._lookUp(source, recipient))
        if source.isFresh:
            return self._find(source, recipient)
        return Deferred.fromCoroutine(self._judge(source, recipient))

    async def _lookUp(self, table: ITable, recipient: Recipient) -> Expand | Refuse | None:
        user, _ = recipient.parted(self._settings.subaddress)
        try:
            row = await table.lookUp(TableKeys.of(recipient.address, user))
        except TableError as error:
            return Refuse(R451_NO_LOOK_UP, why=f"aliases: {error}")
        members = None if row is None else row.get("members", row.get("value"))
        if members is None:
            return None
        try:
            return self._expand(membersIn(members), recipient.address, str(recipient))
        except ValueError as error:
            return Refuse(R451_LOCAL_ERROR, why=f"aliases: {recipient}: {error}")

    async def _judge(self, file: AliasFile, recipient: Recipient) -> Expand | Refuse | None:
        await file.refresh()
        return self._find(file, recipient)

    def _find(self, file: AliasFile, recipient: Recipient) -> Expand | Refuse | None:
        loaded = file.loaded
        if loaded is None:
            return Refuse(R451_LOCAL_ERROR, why="aliases: the file cannot be read")
        book = loaded.book
        for name in self._names(recipient):
            if name in book.faults:
                return Refuse(R451_LOCAL_ERROR, why=f"aliases: {name}: {book.faults[name]}")
            members = book.members.get(name)
            if members is not None:
                try:
                    return self._expand(members, recipient.address, name)
                except AddressError as error:
                    return Refuse(R451_LOCAL_ERROR, why=f"aliases: {name}: {error}")
        return None

    def _names(self, recipient: Recipient) -> Iterator[str]:
        """
        As what an address is looked up, in this order.
        """
        address = recipient.address
        user, _ = recipient.parted(self._settings.subaddress)
        people = [address] if user is address else [address, user]
        if self._settings.form == "virtual":
            yield from (one.key for one in people)
        yield from (comparable(one.local) for one in people)
        if self._settings.form == "virtual":
            yield f"@{address.domain}"

    def _expand(self, members: Sequence[str], address: Mailbox, name: str) -> Expand:
        """
        @raise AddressError: one of the members is none.
        """
        settings = self._settings
        return Expand(
            tuple(mailboxOf(one, address) for one in members),
            refusers=settings.refusers,
            later=settings.later,
            nesting=settings.nesting,
            most=settings.members,
            why=f"aliases: {name}",
        )


def membersIn(value: JSON) -> Sequence[str]:
    """
    Members in a table: a list as all rows have them.  They include no files.

    @raise ValueError: they are none.
    """
    found = [readMember(one) for one in listed(value)]
    if any(member.startswith(INCLUDE) for member in found):
        raise ValueError(f"no {INCLUDE} in a table")
    return found


class AliasFile:
    """
    A file, for all stages that name it.

    @ivar loaded: what it says; C{None} where it never could be read.
    """

    def __init__(self, path: str, form: Format, services: IServices) -> None:
        self._path = path
        self._form = form
        self._clock = services.reactor
        self._inThread = services.inThread
        self._reading: SharedResult[None] | None = None
        self._until = 0.0
        self._told = ""
        self.loaded: Loaded | None = None

    @property
    def isFresh(self) -> bool:
        """
        Whether it need not be looked after now; or that is being done, and what it said
        counts.
        """
        if self._reading is not None:
            return self.loaded is not None
        return self._clock.seconds() < self._until

    def refresh(self) -> Deferred[None]:
        """
        Look after it, and read it if it has changed.

        @return: a Deferred that fires when that is done.
        """
        reading = self._reading
        if reading is None:
            reading = self._reading = SharedResult(Deferred.fromCoroutine(self._read()))
            reading.wait().addBoth(self._wasRead)  # also where all others have left
        return reading.wait()

    def _wasRead(self, _: object) -> None:
        self._reading = None
        self._until = self._clock.seconds() + STALE_SECONDS

    async def _read(self) -> None:
        before = self.loaded
        try:
            found = await self._inThread(_current, self._path, self._form, before)
        except Exception as error:
            self._tellError(f"{type(error).__name__}: {error}")
            return
        self._told = ""
        if found is not before:
            self.loaded = found
            self._tellFaults(found)

    def _tellError(self, error: str) -> None:
        """
        The log is told once.
        """
        if error != self._told:
            counts = "what was read before counts" if self.loaded else "mail for them waits"
            message = "the aliases of {path} cannot be read, so {counts}: {error}"
            _log.error(message, path=self._path, counts=counts, error=error)
        self._told = error

    def _tellFaults(self, loaded: Loaded) -> None:
        problems = loaded.book.problems
        for number, problem in problems[:MAX_FAULTS]:
            where = f"{self._path}, line {number}" if number else self._path
            _log.error("{where}: {problem}", where=where, problem=problem)
        if len(problems) > MAX_FAULTS:
            more = len(problems) - MAX_FAULTS
            _log.error("{path}: {more} more faults", path=self._path, more=more)


def _current(path: str, form: Format, before: Loaded | None) -> Loaded:
    """
    In the thread.
    """
    if before is not None and before.isCurrent():
        return before
    return load(path, form)
