"""
C{deferrals spool move}: a queue goes from where one configuration has it to where another
one has it; no server may run with either.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError, SpoolError
from deferrals.model.ids import formatId
from deferrals.model.json import JSON
from deferrals.operator.connecting import spoolsOf
from deferrals.operator.output import complain, say, sayJSON
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.moving import QueueEnd, move
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.directory import directoryOf
from deferrals.spool.postgresql.moving import PostgresqlEnd
from deferrals.spool.sqlite.moving import SqliteEnd, make

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: The exit statuses: all of it is there, some stays, it cannot be done.
GOOD, SOME, FAILED = range(3)


def addCommand(verbs: Commands) -> None:
    """
    @param verbs: those of C{deferrals spool}.
    """
    one = verbs.add_parser(
        "move",
        help="carry the queue of one configuration into that of another one",
        description="Each message is durable there before it is removed here; held stays held, and"
        " schedules go on. Exit status: 0; 1 if some stay, each of which is named; 2 if it cannot"
        " be done, as while a server uses one of them.",
    )
    one.add_argument("source", metavar="FROM.toml", help="whose queue it is")
    one.add_argument("target", metavar="TO.toml", help="whose it becomes")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=_move)


def _move(arguments: argparse.Namespace) -> int:
    moved = 0
    stayed: list[JSON] = []
    try:
        source, target = (load(one, stagePlugins()) for one in (arguments.source, arguments.target))
        _checkApart(source, target)
        with _opened(target, isMade=True) as ends, contextlib.ExitStack() as stack:
            for begin in [*stack.enter_context(_opened(source, isMade=False))]:
                for number, problem in move(begin, ends[0]):
                    moved += not problem
                    stayed += [{"id": formatId(number), "problem": problem}] if problem else []
    except (ConfigError, SpoolError, OSError, sqlite3.Error) as error:
        complain(str(error))
        return FAILED
    _tell(moved, stayed, isJSON=arguments.json)
    return SOME if stayed else GOOD


def _tell(moved: int, stayed: list[JSON], *, isJSON: bool) -> None:
    if isJSON:
        return sayJSON({"moved": moved, "stayed": stayed})
    for one in stayed:
        if isinstance(one, dict):
            say(f"{one['id']} stays: {one['problem']}")
    say(f"{moved} messages were moved, {len(stayed)} stay")


def _checkApart(source: Config, target: Config) -> None:
    """
    @raise SpoolError: both are the same queue.
    """
    if _whereOf(source) == _whereOf(target):
        raise SpoolError("both configurations have the same queue")


def _whereOf(config: Config) -> tuple[str, ...]:
    settings = config.spool
    if settings.use == "sqlite":
        return (config.spoolOf(0),)
    return settings.conninfo or "", settings.schema


@contextlib.contextmanager
def _opened(config: Config, *, isMade: bool) -> Iterator[list[QueueEnd]]:
    """
    A configuration's queue; of several processes with queues of their own, those of all.

    @param isMade: whether it is made where it is not there.
    """
    with contextlib.ExitStack() as stack:
        if config.spool.use == "postgresql":
            access = Access.of(config.spool, config.baseDir)
            machine = config.spool.machine or config.hostname
            end = PostgresqlEnd(access, machine, directoryOf(config.spool, config.baseDir))
            yield [stack.enter_context(contextlib.closing(end))]
            return
        if isMade:
            make(config.spoolOf(0))
        directories = [config.spoolOf(0)] if isMade else [*spoolsOf(config).values()]
        yield [stack.enter_context(contextlib.closing(SqliteEnd(one))) for one in directories]
