"""
C{deferrals cluster}, and C{deferrals spool upgrade}: the database that several servers
share, asked by itself; no server has to run.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deferrals.config.tables import load
from deferrals.errors import ConfigError, SpoolError
from deferrals.model.json import JSON, asList, asNumber, asObject
from deferrals.operator.moving import addCommand as addMove
from deferrals.operator.output import complain, say, sayJSON
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.postgresql.connection import Access, explained, opened
from deferrals.spool.postgresql.overview import LAG_SECONDS, owners, store, twins
from deferrals.spool.postgresql.schema import VERSION, check, upgrade, versionOf

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: The exit statuses: all is well, something is to be seen to, it cannot be told.
GOOD, WRONG, UNKNOWN = range(3)


def addCommands(commands: Commands) -> None:
    """
    @param commands: the commands of C{deferrals}.
    """
    cluster = commands.add_parser(
        "cluster",
        help="the servers that share a database, and how that is",
        description="Exit status: 0; 1 if one of them is dead, they differ in their versions, or a"
        " standby is behind; 2 if the database cannot be asked.",
    )
    cluster.add_argument("--json", action="store_true", help="for programs")
    cluster.set_defaults(run=_cluster)
    spool = commands.add_parser("spool", help="move a queue; make the tables in a database")
    verbs = spool.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    tables = verbs.add_parser(
        "upgrade",
        help="make the tables, or bring them to this version",
        description="Exit status: 0 if it is done; 1 with --check, if it is to be done; 2 if it"
        " cannot be done.",
    )
    tables.add_argument("--check", action="store_true", help="only say whether it is to be done")
    tables.set_defaults(run=_upgrade)
    addMove(verbs)
    for one in (cluster, tables):
        one.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")


@contextlib.contextmanager
def _database(arguments: argparse.Namespace) -> Iterator[tuple[Connection, str]]:
    """
    @return: a connection to what a configuration names, and the name of its schema.
    @raise SpoolError: there is none.
    """
    config = load(arguments.config, stagePlugins())
    if not config.spool.isShared:
        raise SpoolError("[spool] names no database")
    access = Access.of(config.spool, config.baseDir)
    with contextlib.closing(opened(access, "deferrals cluster")) as db, explained(db):
        yield db, access.schema


def _upgrade(arguments: argparse.Namespace) -> int:
    try:
        with _database(arguments) as (db, schema):
            before = versionOf(db)
            if before >= VERSION:
                check(before)
                say(f"the schema {schema} is version {before}: nothing to do")
                return GOOD
            if arguments.check:
                say(f"the schema {schema} is version {before}: {VERSION} is to be made")
                return WRONG
            say(f"the schema {schema} was version {before}, and is {upgrade(db, schema)}")
            return GOOD
    except (ConfigError, SpoolError) as error:
        complain(str(error))
        return UNKNOWN


def _cluster(arguments: argparse.Namespace) -> int:
    try:
        with _database(arguments) as (db, _):
            check(versionOf(db))
            found: dict[str, JSON] = {"store": store(db), "owners": [*owners(db)]}
            names = twins(db)
    except (ConfigError, SpoolError) as error:
        complain(str(error))
        return UNKNOWN
    for name in names:
        complain(f"several machines are {name}: give each a name of its own ([spool] machine)")
    problems = [*_problems(found)]
    if arguments.json:
        sayJSON(found)
    else:
        for line in (*problems, *_lines(found)):
            say(line)
    return WRONG if problems else GOOD


def _problems(found: dict[str, JSON]) -> Iterator[str]:
    """
    What an operator has to see to.
    """
    alive = []
    for one in map(asObject, asList(found["owners"])):
        if one["alive"]:
            alive.append((one["version"], one["schema"]))
        else:
            seen = asNumber(one["seen_seconds"])
            yield f"dead: {one['machine']}, worker {one['worker']}: not heard for {seen:.0f} s"
    if len(set(alive)) > 1:
        versions = ", ".join(sorted({str(version) for version, _ in alive}))
        yield f"they are not of one version: {versions}"
    for replica in map(asObject, asList(asObject(found["store"])["replicas"])):
        lag = asNumber(replica["lag_seconds"])
        if lag > LAG_SECONDS:
            yield f"the standby {replica['name']} is {lag:.0f} s behind"


def _lines(found: dict[str, JSON]) -> Iterator[str]:
    known = asObject(found["store"])
    yield f"PostgreSQL {known['server']}, schema version {known['schema']}"
    yield f"what it confirms is durable: {known['durable']}"
    yield (
        f"oldest transaction {asNumber(known['oldest_xmin_seconds']):.0f} s, dead rows"
        f" {known['dead_rows']}, {asNumber(known['octets']) / (1 << 20):.1f} MiB"
    )
    for replica in map(asObject, asList(known["replicas"])):
        yield f"standby {replica['name']}: {asNumber(replica['lag_seconds']):.1f} s behind"
    for one in map(asObject, asList(found["owners"])):
        yield (
            f"{one['machine']}, worker {one['worker']}: owner {one['owner']}, process {one['pid']},"
            f" deferrals {one['version']}, heard {asNumber(one['seen_seconds']):.1f} s ago,"
            f" {one['staged']} staged, {one['leased']} leased"
        )
