"""
Several machines with one queue, and everything that may fall away (the longer run:
C{python -m tests.crash.clusterrig}); and whether that would see what it is there for.
"""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.postgresql.schema import VERSION
from tests.crash import clusterrig, sabotage
from tests.crash.clusterrig import clusterScreams, isGood, run
from tests.crash.clustersabotage import CLUSTER_SABOTAGES, KINDS_OF_KILL
from tests.crash.inside import NEXT, PROGRAM
from tests.integration import support
from tests.integration.clusters import Instance
from tests.integration.support import cli, until
from tests.integration.test_cluster_queue import QueueCase
from tests.rigs import rig

SAMPLE = "unknown-kept"

KINDS = {*clusterrig.KILLS}


class ClusterKillTests(SynchronousTestCase):
    """
    L{tests.crash.clusterrig}.
    """

    def test_kept(self) -> None:
        """Whatever falls away, one after the other, nothing that was accepted is lost."""
        counts = run(rig(3, len(KINDS)), seed=20261130)
        print(json.dumps({name: counts[name] for name in ("kills", "accepted", "duplicates")}))
        self.assertTrue(isGood(counts), counts)

    def test_seen(self) -> None:
        """The rig sees a server that breaks its promises."""
        kinds = KINDS_OF_KILL[SAMPLE]
        counts = run(len(kinds), seed=20261130, sabotage=SAMPLE, only=kinds)
        print(SAMPLE, json.dumps(clusterScreams(counts)))
        # that one is slow to come back says nothing of its promises
        screams = clusterScreams(counts).keys() - {"never back", "wrong answers"}
        self.assertTrue(screams, counts)


class ClusterSabotageTests(SynchronousTestCase):
    """
    L{CLUSTER_SABOTAGES}.
    """

    def test_there(self) -> None:
        """What each one puts itself around is there, and kills are named that show it."""
        patched: list[Any] = []

        def patch(owner: Any, name: str, around: Any) -> None:
            self.assertTrue(callable(getattr(owner, name, None)), f"{owner}: no {name}")
            patched.append(around)

        self.patch(sabotage, "patch", patch)
        for put in CLUSTER_SABOTAGES.values():
            before = len(patched)
            put()
            self.assertGreater(len(patched), before, put)
        self.assertEqual(CLUSTER_SABOTAGES.keys(), KINDS_OF_KILL.keys())
        self.assertLessEqual({kind for ones in KINDS_OF_KILL.values() for kind in ones}, KINDS)


class NextVersionTests(QueueCase):
    """
    A server of the next version of the program beside one of this.
    """

    def setUp(self) -> None:
        self.instance = Instance()
        self.addCleanup(self.instance.remove)

    def next(self) -> Any:
        """
        A server of the next version.
        """
        os.environ[NEXT] = "1"
        own = self.patch(support, "TWISTD", PROGRAM)
        try:
            return self.machine(self.instance.conninfo, "mail", "two")
        finally:
            own.restore()
            del os.environ[NEXT]

    def test_beside(self) -> None:
        """
        While mail goes through one, another of the next version starts, and brings the tables
        to its own; both take mail and deliver it, and an operator sees that they differ.  One
        that is older than that does not start.
        """
        old = self.machine(self.instance.conninfo, "mail", "one")
        until(lambda: "is alive" in old.log, old.log)
        self.assertEqual(self.bring(old, "lover")[0], 250, old.log)
        new = self.next()
        until(lambda: "is alive" in new.log, new.log)
        self.assertEqual(
            self.instance.ask("SELECT version FROM mail.schema"), [(VERSION + 1,)], new.log
        )
        for number in range(1, 4):
            self.assertEqual(self.bring(old, "lover")[0], 250, old.log)
            self.assertEqual(self.bring(new, "lover")[0], 250, new.log)
            old.arrived("lover", 1 + number)
            new.arrived("lover", number)
        done = cli("cluster", "-c", old.path)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("they are not of one version", done.stdout)
        until(lambda: self.instance.ask("SELECT count(*) FROM mail.messages") == [(0,)], "gone")
        self.instance.ask(f"UPDATE mail.schema SET version = {VERSION + 2}")
        older = self.machine(self.instance.conninfo, "mail", "three")
        self.assertEqual(older.process.process.wait(60), 1)
        wanted = f"the schema is version {VERSION + 2}, this is version {VERSION}: install a newer"
        self.assertIn(wanted, older.log)
