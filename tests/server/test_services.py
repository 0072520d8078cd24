"""
What a server lends to its stages.
"""

from __future__ import annotations

import ast
import pathlib

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import IDeliveryStage, IServices
from deferrals.model.address import Mailbox
from deferrals.server import services
from deferrals.server.services import Services
from deferrals.testing import FakeDelivery, makeEnvelope, makeMessage
from tests.source import nodes, parsed


class _Current:
    """
    What a server has now.
    """

    def __init__(self, deliveries: dict[str, IDeliveryStage], path: Mailbox) -> None:
        self._deliveries = deliveries
        self._path = path

    def delivery(self, name: str) -> IDeliveryStage | None:
        return self._deliveries.get(name)

    def reversePath(self, sender: Mailbox) -> Mailbox:
        return self._path


class ServicesTests(SynchronousTestCase):
    """
    L{Services}.
    """

    def setUp(self) -> None:
        self.services = Services(Clock(), hostname="mx.test")

    def test_interface(self) -> None:
        """It is what stages are promised."""
        self.assertTrue(verifyObject(IServices, self.services))

    def test_oneSPF(self) -> None:
        """All that asks for SPF asks one, through one memory of DNS: no other is made."""
        directory = pathlib.Path(services.__file__).parent
        made = [
            path.name
            for path in sorted(directory.rglob("*.py"))
            for call in nodes(parsed(path.read_text(encoding="utf-8")), ast.Call)
            if isinstance(call.func, ast.Name) and call.func.id == "SPF"
        ]
        self.assertEqual(made, ["services.py"])

    def test_view(self) -> None:
        """A message as a mailbox will have it."""
        shown = self.services.view(makeMessage(b"text\r\n"), makeEnvelope())
        with shown.open() as file:
            content = file.read()
        self.assertIn(b"\tby mx.test with ", content)
        self.assertTrue(content.endswith(b"\r\n\r\ntext\r\n"))

    def test_common(self) -> None:
        """One object for all that ask with one key."""
        built = self.services.common("key", list)
        self.assertIs(self.services.common("key", list), built)
        self.assertIsNot(self.services.common("other", list), built)

    def test_inThread(self) -> None:
        """Without threads the function is called at once; what it raises is the failure."""
        self.assertEqual(self.successResultOf(self.services.inThread(int, "5", base=8)), 5)
        self.failureResultOf(self.services.inThread(int, "x"), ValueError)

    def test_connect(self) -> None:
        """What is no client endpoint is an error."""
        self.assertRaises(ValueError, self.services.connect, "nothing:x")

    def test_listensOn(self) -> None:
        """Each server that uses them says where it listens."""
        self.assertFalse(self.services.listensOn("127.0.0.1", 25))
        self.services.addListening(lambda: [("127.0.0.1", 25)])
        self.services.addListening(lambda: [("127.0.0.2", 26)])
        self.assertTrue(self.services.listensOn("127.0.0.1", 25))
        self.assertTrue(self.services.listensOn("127.0.0.2", 26))
        self.assertFalse(self.services.listensOn("127.0.0.1", 26))

    def test_current(self) -> None:
        """Deliveries by name, and the reverse path, as the server has them now."""
        sender, other = Mailbox("a", "x.example"), Mailbox("b", "y.example")
        self.assertIsNone(self.services.delivery("a"))
        self.assertIs(self.services.reversePath(sender), sender)
        box = FakeDelivery()
        self.services.addCurrent(_Current({"a": box}, other))
        self.assertIs(self.services.delivery("a"), box)
        self.assertIsNone(self.services.delivery("b"))
        self.assertIs(self.services.reversePath(sender), other)

    def test_oneServer(self) -> None:
        """Two servers would have deliveries of the same names, and stages could not say whose."""
        self.services.addCurrent(_Current({}, Mailbox("a", "x.example")))
        other = _Current({}, Mailbox("b", "y.example"))
        error = self.assertRaises(ValueError, self.services.addCurrent, other)
        self.assertIn("another server has these services", str(error))

    def test_resolver(self) -> None:
        """One resolver for one set of servers."""
        servers = (("192.0.2.1", 53),)
        self.assertIs(self.services.resolver(servers), self.services.resolver(servers))
