"""
What filters are told of a message.
"""

from __future__ import annotations

from ipaddress import ip_address

import attrs
from kilter.protocol.messages import Connect
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import Client
from deferrals.stages.milter.told import bodyOf, fieldsOf, fits, toldOf
from deferrals.testing import makeEnvelope, makeMessage, makeRecipient


class ToldTests(SynchronousTestCase):
    """
    L{toldOf}, L{fieldsOf} and L{bodyOf}.
    """

    def connect(self, client: Client) -> Connect:
        return toldOf(makeEnvelope(client=client), [], "mx", "v", {}).connect

    def test_client(self) -> None:
        """Its name and its address, as far as they are known."""
        for client, name, address, port in (
            (Client("192.0.2.1", 99, hostname="c.test"), "c.test", ip_address("192.0.2.1"), 99),
            (Client("2001:db8::1", 99), "[2001:db8::1]", ip_address("2001:db8::1"), 99),
            (Client("local"), "localhost", ip_address("127.0.0.1"), 0),
            (Client("unknown"), "unknown", None, 0),
        ):
            found = self.connect(client)
            self.assertEqual((found.hostname, found.address, found.port), (name, address, port))

    def test_envelope(self) -> None:
        """Addresses in brackets, and what came with them."""
        envelope = makeEnvelope("", smtputf8=True, size=99, body="8BITMIME", ret="HDRS")
        recipient = attrs.evolve(makeRecipient("a@x.example"), notify=frozenset({"NEVER"}))
        told = toldOf(envelope, [recipient], "mx", "v", {})
        self.assertEqual(told.mail.sender, b"<>")
        wanted = [b"SIZE=99", b"BODY=8BITMIME", b"SMTPUTF8", b"RET=HDRS"]
        self.assertEqual(told.mail.arguments, wanted)
        (rcpt,) = told.rcpt
        self.assertEqual((rcpt.recipient, rcpt.arguments), (b"<a@x.example>", [b"NOTIFY=NEVER"]))

    def test_fits(self) -> None:
        """A field and its name are one step, which libmilter reads up to 65535 octets of."""
        for octets, isFit in ((65535, True), (65536, False)):
            value = b" " * (octets - len(b"Name\0\0"))
            self.assertIs(fits(makeMessage(b"A: 1\r\nName:" + value + b"\r\n\r\n")), isFit)
        many = b"".join(b"A: %d\r\n" % number for number in range(20_000))
        self.assertTrue(fits(makeMessage(many + b"\r\n")))

    def test_message(self) -> None:
        """Fields as they are, with the protocol's line ends, and without NUL."""
        for data, fields, body in (
            (
                b"A:1\r\nb : 2\r\n\t3\r\nC: x\0y\r\n\r\n\r\ntext\r\n",
                [("A", b"1"), ("b", b" 2\n\t3"), ("C", b" xy")],
                b"\r\ntext\r\n",
            ),
            (b"\r\ntext\r\n", [], b"text\r\n"),
            (b"A: 1\r\n", [("A", b" 1")], b""),
            (b"A: 1\r\n\r\n", [("A", b" 1")], b""),
            (b"A: 1\r\n\r\n" + b"x" * 200_000, [("A", b" 1")], b"x" * 200_000),
        ):
            message = makeMessage(data)
            self.assertEqual(list(fieldsOf(message)), fields)
            chunks = list(bodyOf(message))
            self.assertEqual(b"".join(chunks), body)
            self.assertTrue(all(0 < len(one) <= 65535 for one in chunks))
