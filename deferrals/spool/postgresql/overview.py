"""
How a database is that several servers share, and who they are: for operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferrals.model.json import JSON
from deferrals.spool.postgresql.schema import durability, versionOf

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: A standby that is so far behind is one to look at, in seconds.
LAG_SECONDS = 10.0

_DATABASE = (
    "SELECT split_part(current_setting('server_version'), ' ', 1),"
    " coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start))"
    " FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()), 0),"
    " coalesce(sum(n_dead_tup), 0), coalesce(sum(pg_total_relation_size(relid)), 0)"
    " FROM pg_stat_user_tables WHERE schemaname = current_schema()"
)

#: Whoever may not look at others' sessions has nulls.
_REPLICAS = (
    "SELECT application_name, coalesce(extract(epoch FROM replay_lag), 0)"
    " FROM pg_stat_replication WHERE application_name IS NOT NULL ORDER BY application_name"
)

_OWNERS = (
    "SELECT id, machine, worker, pid, version, schema,"
    " extract(epoch FROM clock_timestamp() - seen),"
    " seen >= clock_timestamp() - make_interval(secs => lease),"
    " staged, (SELECT count(*) FROM recipients WHERE owner = owners.id AND status = 1)"
    " FROM owners ORDER BY machine, worker, id"
)

#: Both were heard while the other was there: it is no process with the one before it.
_TWINS = (
    "SELECT DISTINCT a.machine FROM owners AS a JOIN owners AS b"
    " ON a.machine = b.machine AND a.worker = b.worker AND a.id < b.id"
    " WHERE a.seen > b.began AND b.seen > a.began ORDER BY a.machine"
)


def store(db: Connection) -> dict[str, JSON]:
    """
    @return: what C{deferrals cluster --json} shows of the database.
    @raise SpoolError: what it confirms can be lost.
    """
    (server, xmin, dead, octets) = db.execute(_DATABASE).fetchall()[0]
    replicas: list[JSON] = [
        {"name": name, "lag_seconds": round(float(lag), 3)} for name, lag in db.execute(_REPLICAS)
    ]
    return {
        "server": server,
        "schema": versionOf(db),
        "durable": durability(db),
        "oldest_xmin_seconds": round(float(xmin), 3),
        "dead_rows": int(dead),
        "octets": int(octets),
        "replicas": replicas,
    }


def owners(db: Connection) -> list[dict[str, JSON]]:
    """
    @return: what it shows of the processes that have a row.
    """
    return [
        {
            **{"owner": number, "machine": machine, "worker": worker, "pid": pid},
            **{"version": version, "schema": schema, "seen_seconds": round(float(seen), 3)},
            **{"alive": alive, "staged": staged, "leased": leased},
        }
        for number, machine, worker, pid, version, schema, seen, alive, staged, leased in (
            db.execute(_OWNERS)
        )
    ]


def twins(db: Connection) -> list[str]:
    """
    @return: the names that several machines have.
    """
    return [machine for (machine,) in db.execute(_TWINS)]
