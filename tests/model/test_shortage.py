"""
What this server itself has run out of.
"""

from __future__ import annotations

import errno

from twisted.internet.error import CannotListenError, ConnectBindError, ConnectError, NoRouteError
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import HopError
from deferrals.model.shortage import isOurs
from deferrals.model.verdict import Details


class ShortageTests(SynchronousTestCase):
    """
    L{isOurs}.
    """

    def test_ours(self) -> None:
        """Ports, descriptors, processes, memory, the network: whoever says so."""
        for error in (
            BlockingIOError(errno.EAGAIN, "fork"),
            OSError(errno.ENOMEM, "memory"),
            ConnectBindError(errno.EADDRNOTAVAIL),
            ConnectError(errno.EMFILE),
            NoRouteError(errno.ENETUNREACH),
            CannotListenError("", 5, OSError(errno.EMFILE, "files")),
            HopError("no connection", isOurs=True),
        ):
            self.assertTrue(isOurs(error), error)
            self.assertTrue(Details.ofError(error).isOurs)

    def test_others(self) -> None:
        """What the other side does is not."""
        for error in (
            ConnectError(errno.ECONNREFUSED),
            ConnectError(errno.EHOSTUNREACH),
            OSError(errno.ENOSPC, "full"),
            ConnectError(),
            ValueError("x"),
            HopError("no connection"),
        ):
            self.assertFalse(isOurs(error), error)
            self.assertFalse(Details.ofError(error).isOurs)
