"""
Messages on their way to a server.
"""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Parameters
from deferrals.model.outgoing import (
    Login,
    Outgoing,
    encodeOriginal,
    mailParameters,
    recipientParameters,
    wireAddress,
)
from deferrals.testing import makeEnvelope, makeRecipient


def outgoing(*recipients: str, **more: object) -> Outgoing:
    return attrs.evolve(Outgoing("a@x.example", recipients, 0, lambda: iter([])), **more)


class OutgoingTests(SynchronousTestCase):
    """
    L{Outgoing}.
    """

    def test_needsUTF8(self) -> None:
        """SMTPUTF8 is for addresses and headers; text needs 8BITMIME alone."""
        for message, wanted in (
            (outgoing("b@x.example"), False),
            (outgoing("b@x.example", eightBit=True), False),
            (outgoing("b@x.example", utf8Header=True), True),
            (outgoing("b@x.example", sender="\u00fc@x.example"), True),
            (outgoing("b@x.example", "\u00fc@x.example"), True),
        ):
            self.assertIs(message.needsUTF8, wanted, message)

    def test_only(self) -> None:
        """Some of the recipients keep their own parameters."""
        notify = {0: [("DSN", "NOTIFY=NEVER")], 2: [("DSN", "NOTIFY=FAILURE")]}
        message = outgoing("a@x.example", "b@x.example", "c@x.example", recipientParameters=notify)
        some = message.only([1, 2])
        self.assertEqual(some.recipients, ["b@x.example", "c@x.example"])
        self.assertEqual(some.recipientParameters, {1: notify[2]})
        self.assertIs(message.only([0, 1, 2]), message)

    def test_password(self) -> None:
        """A password is not shown."""
        self.assertNotIn("secret", repr(Login("alice", "secret")))


class ParameterTests(SynchronousTestCase):
    """
    What is passed on (RFC 3461, RFC 6533).
    """

    def test_mail(self) -> None:
        """RET and ENVID, in xtext; nothing that was not said."""
        self.assertEqual(mailParameters(makeEnvelope()), [])
        envelope = makeEnvelope()
        asked = attrs.evolve(envelope, parameters=Parameters(ret="HDRS", envid="a=b"))
        self.assertEqual(mailParameters(asked), [("DSN", "RET=HDRS"), ("DSN", "ENVID=a+3Db")])

    def test_recipient(self) -> None:
        """NOTIFY and ORCPT."""
        recipient = makeRecipient("a@example.net")
        self.assertEqual(recipientParameters(recipient), [])
        asked = attrs.evolve(
            recipient, notify=frozenset({"SUCCESS", "FAILURE"}), orcpt="rfc822;a+b@example.net"
        )
        self.assertEqual(
            recipientParameters(asked),
            [("DSN", "NOTIFY=FAILURE,SUCCESS"), ("DSN", "ORCPT=rfc822;a+2Bb@example.net")],
        )

    def test_original(self) -> None:
        """An address that is not ASCII is written so that every server can read it."""
        self.assertEqual(encodeOriginal("utf-8;\u00fc=@x"), "utf-8;\\x{FC}\\x{3D}@x")
        self.assertEqual(encodeOriginal("rfc822;a=b@x"), "rfc822;a+3Db@x")

    def test_wireAddress(self) -> None:
        """A domain goes as A-labels, where the local part does not need SMTPUTF8 anyway."""
        for text, wanted in (
            ("a@example.net", "a@example.net"),
            ("a@b\u00fccher.example", "a@xn--bcher-kva.example"),
            ("\u00fc@b\u00fccher.example", "\u00fc@b\u00fccher.example"),
        ):
            self.assertEqual(wireAddress(Mailbox.parse(text)), wanted)
