"""
Mail that goes where DNS says, with a zone on loopback.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import defer
from twisted.trial.unittest import TestCase

from deferrals.network import makeResolver
from deferrals.stages.delivery.route import Names, NoRoute, Router
from tests.test_route import RECORDS
from tests.zone import Zone


class ZoneTests(TestCase):
    """
    twisted.names, and a zone on loopback.
    """

    @defer.inlineCallbacks
    def test_zone(self) -> Any:
        """The look-ups of L{Names} work with the resolver that the server uses."""
        from twisted.internet import reactor

        zone = Zone({key: value for key, value in RECORDS.items() if key[1] != "CNAME"})
        self.addCleanup(zone.close)
        resolver = makeResolver(reactor, [zone.address])
        router = Router(
            Names(lambda: resolver, reactor), list.sort, lambda n: False, lambda a: True, 10, True
        )
        found = yield router.route("x.example")
        self.assertEqual(found[0].address, "2001:db8::1")
        self.assertEqual(len(found), 5)
        found = yield router.route("implicit.example")
        self.assertEqual(found[0].address, "192.0.2.4")
        for domain, code in (("null.example", 556), ("gone.example", 550)):
            try:
                yield router.route(domain)
            except NoRoute as error:
                self.assertEqual(error.outcome.reply.code, code)
            else:
                self.fail(domain)
