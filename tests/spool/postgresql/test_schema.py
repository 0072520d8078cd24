"""
Tests for L{deferrals.spool.postgresql.schema}; those with a real server are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.postgresql import schema


class SchemaTests(SynchronousTestCase):
    """
    L{schema.check} and L{schema.STEPS}.
    """

    def test_versions(self) -> None:
        """This version and the next will do, no other."""
        for version, isGood in ((-1, False), (0, True), (1, True), (2, False)):
            if isGood:
                schema.check(schema.VERSION + version)
            else:
                self.assertRaises(SpoolError, schema.check, schema.VERSION + version)

    def test_steps(self) -> None:
        """There is a step to each version, from the first to this one."""
        self.assertEqual([*schema.STEPS], [*range(1, schema.VERSION + 1)])
