"""
Messages, envelopes and recipients for tests.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import IMessage
from deferrals.model.envelope import Client, Form
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage, makeRecipient


class MakeTests(SynchronousTestCase):
    """
    C{make…}.
    """

    def test_message(self) -> None:
        """A message of these octets."""
        message = makeMessage(b"Subject: a\r\n\r\nb\r\n")
        self.assertTrue(verifyObject(IMessage, message))
        self.assertEqual(message.fields(), [("Subject", "a")])
        self.assertTrue(message.isIntact())

    def test_envelope(self) -> None:
        """A sender, or none; parameters; and the client that a test wants."""
        self.assertIsNone(makeEnvelope("").sender)
        self.assertIs(makeEnvelope(form=Form.PRDR).parameters.form, Form.PRDR)
        client = Client("2001:db8::1", 25, "a.example", "ESMTPSA", user="alice")
        self.assertEqual(makeEnvelope(client=client).client.user, "alice")
        self.assertNotEqual(makeEnvelope().transaction, makeEnvelope().transaction)

    def test_recipients(self) -> None:
        """With a route, and numbered."""
        self.assertEqual(makeRecipient("a@example.net", "p", "d").route.delivery, "d")
        self.assertEqual([one.seq for one in makeAddressees("a@x.example", "b@x.example")], [0, 1])
