"""
Tests for L{deferrals.server.company}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.portion import Portion
from deferrals.server.company import Company
from deferrals.spool.postgresql.owners import Living


class CompanyTests(SynchronousTestCase):
    """
    L{Company}.
    """

    def test_heard(self) -> None:
        """Watchers are told what is new, and only that."""
        company, told = Company(2), [0]
        company.watchers.append(lambda: told.append(company.portion.of(50)))
        for living in (Living(1, 1), Living(2, 1), Living(4, 2), Living(4, 2), Living(2, 1)):
            company.heard(3, living)
        self.assertEqual(told, [0, 50, 25, 50])
        self.assertEqual(company.portion, Portion(2, 2))
