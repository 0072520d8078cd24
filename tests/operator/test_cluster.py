"""
Tests for L{deferrals.operator.cluster}; those with a real database are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import psycopg

from deferrals.cli import main
from deferrals.operator import cluster
from deferrals.spool.postgresql.schema import VERSION
from tests.configs import LISTEN, ConfigCase
from tests.spool.postgresql.fakes import FakeConnection

STORE = {
    **{"server": "15.20", "schema": VERSION, "durable": "local", "octets": 1 << 20},
    **{"oldest_xmin_seconds": 1.0, "dead_rows": 3, "replicas": []},
}

OWNER = {
    **{"owner": 3, "machine": "mx1", "worker": 0, "pid": 991, "version": "0.2", "schema": 1},
    **{"seen_seconds": 1.2, "alive": True, "staged": 2, "leased": 17},
}


class ClusterTests(ConfigCase):
    """
    C{deferrals cluster} and C{deferrals spool upgrade}.
    """

    def setUp(self) -> None:
        table = '[spool]\nnotes = "postgresql"\nconninfo = "host=db"\n'
        self.path = self.mktemp()
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(f"{LISTEN}{table}")
        self.version = VERSION
        self.store: dict[str, Any] = {**STORE}
        self.owners: list[dict[str, Any]] = [{**OWNER}]
        self.patch(psycopg, "connect", self.connect)
        self.patch(cluster, "versionOf", lambda db: self.version)
        self.patch(cluster, "upgrade", lambda db, schema: VERSION)
        self.patch(cluster, "store", lambda db: self.store)
        self.patch(cluster, "owners", lambda db: self.owners)
        self.twins: list[str] = []
        self.patch(cluster, "twins", lambda db: self.twins)

    def connect(self, *args: Any, **options: Any) -> Any:
        return FakeConnection()

    def run_(self, *words: str) -> tuple[int, str, str]:
        """
        @return: exit status, output and errors.
        """
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([*words, "-c", self.path])
        return status, out.getvalue(), err.getvalue()

    def test_good(self) -> None:
        """All is well: 0, and what there is."""
        status, out, _ = self.run_("cluster")
        self.assertEqual(status, 0)
        self.assertIn("durable: local\n", out)
        line = (
            "mx1, worker 0: owner 3, process 991, deferrals 0.2, heard 1.2 s ago, 2 staged,"
            " 17 leased\n"
        )
        self.assertIn(line, out)
        status, out, _ = self.run_("cluster", "--json")
        self.assertEqual((status, json.loads(out)), (0, {"store": STORE, "owners": [OWNER]}))

    def test_wrong(self) -> None:
        """What is to be seen to comes first: 1."""
        dead = {**OWNER, "alive": False, "seen_seconds": 70.0, "machine": "mx2"}
        newer = {**OWNER, "version": "0.3", "machine": "mx2"}
        late = {**STORE, "replicas": [{"name": "b", "lag_seconds": 11.0}]}
        for owners, store, wanted in (
            ([OWNER, dead], STORE, "dead: mx2, worker 0: not heard for 70 s\n"),
            ([OWNER, newer], STORE, "they are not of one version: 0.2, 0.3\n"),
            ([OWNER], late, "the standby b is 11 s behind\n"),
        ):
            self.owners, self.store = owners, store
            status, out, _ = self.run_("cluster")
            self.assertEqual((status, out[: len(wanted)]), (1, wanted))

    def test_twins(self) -> None:
        """Two machines of one name are warned of: what programs read is as ever, and 0."""
        self.twins = ["mx1"]
        wanted = "deferrals: several machines are mx1: give each a name of its own"
        for words in (("cluster",), ("cluster", "--json")):
            status, _, err = self.run_(*words)
            self.assertEqual((status, err[: len(wanted)]), (0, wanted))

    def test_unknown(self) -> None:
        """What cannot be asked is said: 2."""

        def refused(*args: Any, **options: Any) -> Any:
            raise psycopg.OperationalError("connection refused")

        self.patch(psycopg, "connect", refused)
        for words in (("cluster",), ("spool", "upgrade")):
            status, _, err = self.run_(*words)
            self.assertEqual((status, err), (2, "deferrals: connection refused\n"))
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(LISTEN)
        self.assertEqual(self.run_("cluster")[0], 2)

    def test_refused(self) -> None:
        """So is what the database does not let one ask, in one line."""

        def refused(db: Any) -> Any:
            raise psycopg.errors.lookup("42703")('column "version" does not exist\nLINE 1: x')

        self.patch(cluster, "versionOf", refused)
        for words in (("cluster",), ("spool", "upgrade")):
            status, _, err = self.run_(*words)
            self.assertEqual((status, err), (2, 'deferrals: column "version" does not exist\n'))

    def test_upgrade(self) -> None:
        """It is done, or not necessary: 0; with C{--check} 1, if it is; 2 if it cannot be."""
        self.assertEqual(self.run_("spool", "upgrade", "--check")[0], 0)
        self.assertEqual(self.run_("spool", "upgrade")[0], 0)
        self.version = 0
        self.assertEqual(self.run_("spool", "upgrade", "--check")[0], 1)
        self.assertEqual(self.run_("spool", "upgrade")[0], 0)
        self.version = VERSION + 2
        for more in ((), ("--check",)):
            self.assertEqual(self.run_("spool", "upgrade", *more)[0], 2)
        self.version = 0
        self.assertEqual(self.run_("cluster")[0], 2)
