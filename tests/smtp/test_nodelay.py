"""
Pieces that go out at once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from deferrals.smtp.nodelay import sendAtOnce


class SendAtOnceTests(SynchronousTestCase):
    """
    L{sendAtOnce}.
    """

    def test_tcp(self) -> None:
        """A TCP socket is told so; one that only says that it is one is left as it is."""
        for error in (None, OSError(95, "Operation not supported")):
            transport: Any = StringTransport()
            directlyProvides(transport, ITCPTransport)
            told: list[bool] = []

            def tell(enabled: bool, error: Any = error, told: list[bool] = told) -> None:
                told.append(enabled)
                if error is not None:
                    raise error

            transport.setTcpNoDelay = tell
            sendAtOnce(transport)
            self.assertEqual(told, [True])

    def test_other(self) -> None:
        """What is none is not asked."""
        transport: Any = StringTransport()
        directlyProvides(transport)
        transport.setTcpNoDelay = None
        sendAtOnce(transport)
