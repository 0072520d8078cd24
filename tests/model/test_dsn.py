"""
Notifications as their readers see them: Python's C{email}, and the rules by
which list managers read bounces (Sympa, Mailman: the delivery-status part, its
Final-Recipient, Action and Status; the null sender is the envelope's).
"""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
import re
from email.message import EmailMessage
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.dsn import LISTENER, Notification, isNotice, isWanted, smaller
from deferrals.model.envelope import Recipient
from deferrals.model.reply import R250_EXPANDED, Reply
from deferrals.model.verdict import Route
from deferrals.testing import makeAddressees, makeEnvelope
from tests.requirements import requirement

HEADER = b"From: me@example.com\r\nSubject: hello\r\nMessage-ID: <m1@example.com>"
CONTENT = HEADER + b"\r\n\r\nthe text\r\n"
GONE = Reply(550, "5.1.1", "nobody of\nthat name")


def addressee(address: str, action: str = "failed", **more: Any) -> Addressee:
    """
    One whose sender is to be told.
    """
    values: dict[str, Any] = {"action": action, "reply": GONE, "host": "mx.there.example", **more}
    (one,) = makeAddressees(address)
    return attrs.evolve(one, **values)


def notification(*addressees: Addressee, **more: Any) -> Notification:
    """
    What is to be told of them.
    """
    values: dict[str, Any] = {
        "envelope": makeEnvelope(),
        "addressees": addressees,
        "header": HEADER,
        "content": None,
        "hostname": "mx.example.net",
        "id": "0ABC",
        "now": 1000003600.0,
        "leftSeconds": 7200.0,
    }
    return Notification(**{**values, **more})


def parsed(one: Notification) -> EmailMessage:
    """
    As Python's C{email} reads it.
    """
    found = email.message_from_bytes(one.build()[0], policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def bounced(message: EmailMessage) -> list[tuple[str, str, str]]:
    """
    As a list manager reads a bounce.

    @return: (address, action, status) for each recipient.
    """
    report = message.get_content_type() == "multipart/report"
    if not report or message.get_param("report-type") != "delivery-status":
        return []
    found = []
    for part in message.iter_parts():
        if part.get_content_type() in ("message/delivery-status", "message/global-delivery-status"):
            blocks = part.get_payload()
            if part.get_content_type() != "message/delivery-status":
                blocks = _blocks(part)
            for block in blocks:
                if block.get("Final-Recipient"):
                    address = re.sub(r"^\s*[\w-]+\s*;\s*", "", block["Final-Recipient"])
                    found.append((address, block["Action"].lower(), block["Status"]))
    return found


def _blocks(part: Any) -> list[Any]:
    """
    Python's C{email} does not know the UTF-8 form (RFC 6533).
    """
    data = part.get_payload(0).as_bytes()
    if part["Content-Transfer-Encoding"] == "base64":
        data = base64.b64decode(data)
    text = data.decode("utf-8").replace("\r\n", "\n")
    return [email.message_from_string(block) for block in text.split("\n\n") if block.strip()]


class NotificationTests(SynchronousTestCase):
    """
    L{Notification}.
    """

    def test_failed(self) -> None:
        """A failure is a report of three parts (RFC 6522 §3, RFC 3464 §2)."""
        message = parsed(notification(addressee("a@example.net")))
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(
            [part.get_content_type() for part in message.iter_parts()],
            ["text/plain", "message/delivery-status", "text/rfc822-headers"],
        )
        self.assertEqual(message.defects, [])
        self.assertEqual(bounced(message), [("a@example.net", "failed", "5.1.1")])

    def test_head(self) -> None:
        """It comes from nobody, automatically, and is about a message (RFC 3834 §2, §3.1.6)."""
        message = parsed(notification(addressee("a@example.net")))
        self.assertEqual(message["Auto-Submitted"], "auto-replied")
        self.assertEqual(message["To"], "sender@example.com")
        self.assertEqual(message["In-Reply-To"], "<m1@example.com>")
        self.assertIn("MAILER-DAEMON@mx.example.net", message["From"])
        self.assertTrue(message["Date"] and message["Message-ID"] and message["Subject"])

    def test_fields(self) -> None:
        """The fields say what was received: envelope id, original recipient, remote reply."""
        (one,) = [addressee("a@example.net")]
        recipient = attrs.evolve(one.recipient, orcpt="rfc822;alias@list.example")
        one = attrs.evolve(one, recipient=recipient)
        message = parsed(notification(one, envelope=makeEnvelope(envid="env+1")))
        perMessage, perRecipient = list(message.iter_parts())[1].get_payload()
        self.assertEqual(perMessage["Original-Envelope-Id"], "env+1")
        self.assertEqual(perMessage["Reporting-MTA"], "dns; mx.example.net")
        self.assertEqual(perMessage["Received-From-MTA"], "dns; client.example.com")
        self.assertIn("2001", perMessage["Arrival-Date"])
        self.assertEqual(perRecipient["Original-Recipient"], "rfc822; alias@list.example")
        self.assertEqual(perRecipient["Final-Recipient"], "rfc822; a@example.net")
        self.assertEqual(perRecipient["Remote-MTA"], "dns; mx.there.example")
        self.assertEqual(perRecipient["Diagnostic-Code"], "smtp; 550 5.1.1 nobody of that name")
        self.assertIn("2001", perRecipient["Last-Attempt-Date"])

    @requirement("P-11")
    def test_together(self) -> None:
        """One message tells of all, each with a code of its own."""
        other = Reply(552, "5.2.2", "full")
        late = Reply(451, "4.4.1", "no answer")
        message = parsed(
            notification(
                addressee("a@example.net"),
                addressee("b@example.net", reply=other),
                addressee("c@example.net", "expired", reply=late),
                addressee("d@example.net", reply=Reply(554, None, "no")),
            )
        )
        self.assertEqual(
            bounced(message),
            [
                ("a@example.net", "failed", "5.1.1"),
                ("b@example.net", "failed", "5.2.2"),
                ("c@example.net", "failed", "4.4.7"),
                ("d@example.net", "failed", "5.0.0"),
            ],
        )
        people = next(message.iter_parts()).get_content()
        for address in "abcd":
            self.assertIn(f"<{address}@example.net>", people)

    def test_delayed(self) -> None:
        """A warning says until when it will be tried (RFC 3464 §2.3.9)."""
        late = Reply(451, "4.4.1", "no answer")
        message = parsed(notification(addressee("a@example.net", "delayed", reply=late)))
        self.assertEqual(bounced(message), [("a@example.net", "delayed", "4.4.1")])
        _, perRecipient = list(message.iter_parts())[1].get_payload()
        self.assertEqual(
            email.utils.parsedate_to_datetime(perRecipient["Will-Retry-Until"]).timestamp(),
            1000003600 + 7200,
        )

    def test_success(self) -> None:
        """Delivered, and relayed to a hop without DSN (RFC 3461 §5.2.2)."""
        done = Reply(250, "2.0.0", "taken")
        for action in ("delivered", "relayed"):
            message = parsed(notification(addressee("a@example.net", action, reply=done)))
            self.assertEqual(bounced(message), [("a@example.net", action, "2.0.0")])

    def test_expanded(self) -> None:
        """An alias was expanded: nothing is said of its members (RFC 3461 §5.2.7)."""
        one = addressee("all@example.net", "expanded", reply=R250_EXPANDED, host="")
        found = parsed(notification(one))
        self.assertEqual(bounced(found), [("all@example.net", "expanded", "2.1.5")])
        self.assertTrue(isWanted({"SUCCESS"}, "expanded"))
        self.assertFalse(isWanted(None, "expanded"))

    def test_member(self) -> None:
        """A member's failure is told of the alias, which the sender knows."""
        one = addressee("anna@example.org", reply=Reply(550, "5.1.1", "<Anna@example.org>: full"))
        alias = Mailbox.parse("all@example.net")
        orcpt = "rfc822;all@example.net"
        recipient = attrs.evolve(one.recipient, aliases=(alias,), orcpt=orcpt)
        data, _ = notification(attrs.evolve(one, recipient=recipient)).build()
        self.assertNotIn(b"anna@", data.lower())
        self.assertIn(b"Original-Recipient: rfc822; all@example.net", data)
        self.assertIn(b"Diagnostic-Code: smtp; 550 5.1.1 <all@example.net>: full", data)

    def test_memberOtherwise(self) -> None:
        """Nor is a member named as another server spells it: A-labels, no subaddress."""
        alias = Mailbox.parse("all@example.net")
        for address, said in (
            ("anna@b\u00fccher.example", "anna@xn--bcher-kva.example"),
            ("anna+lists@example.org", "anna@example.org"),
            ("anna+lists@b\u00fccher.example", "anna@xn--bcher-kva.example"),
        ):
            one = addressee(address, reply=Reply(550, "5.1.1", f"<{said}>: full"))
            route = Route("content", "delivery", subaddress="+")
            recipient = attrs.evolve(one.recipient, aliases=(alias,), route=route)
            data, _ = notification(attrs.evolve(one, recipient=recipient)).build()
            self.assertNotIn(b"anna", data.lower())
            self.assertIn(b"Diagnostic-Code: smtp; 550 5.1.1 <all@example.net>: full", data)

    def test_returned(self) -> None:
        """All of the message comes back where that was asked for (RFC 3461 §4.3)."""
        one = notification(addressee("a@example.net"), content=CONTENT)
        self.assertIn(b"Content-Type: message/rfc822\r\n", one.build()[0])
        returned = list(parsed(one).iter_parts())[2]
        self.assertEqual(returned.get_content_type(), "message/rfc822")
        self.assertEqual(returned.get_payload(0)["Subject"], "hello")
        self.assertIn("the text", returned.get_payload(0).get_content())

    def test_eightBit(self) -> None:
        """Eight bits of a returned message are said to be some (RFC 6152)."""
        content = HEADER + b"\r\n\r\n\xe9\r\n"
        data, parameters = notification(addressee("a@example.net"), content=content).build()
        self.assertEqual(parameters.body, "8BITMIME")
        self.assertIn(b"\r\n\xe9\r\n", data)

    def test_boundary(self) -> None:
        """A message that knows the boundary does not end its part."""
        header = HEADER + b"\r\nX: =_0ABC_0"
        message = parsed(notification(addressee("a@example.net"), header=header))
        self.assertEqual(len(list(message.iter_parts())), 3)

    def test_lines(self) -> None:
        """No line has more than 998 octets, or a control character (RFC 5322 §2.1.1)."""
        long = Reply(550, "5.1.1", "\x07" + "x" * 3000 + " y" * 300)
        data, _ = notification(addressee("a@example.net", reply=long)).build()
        self.assertLessEqual(max(map(len, data.split(b"\r\n"))), 998)
        self.assertNotIn(b"\x07", data)
        self.assertEqual(data.replace(b"\r\n", b"").count(b"\n"), 0)

    def test_hostileReply(self) -> None:
        """Whatever a next hop says, no line is longer than a line may be."""
        texts = (": " * 500, ":" * 5000, "\N{SNOWMAN}" * 900, "a" * 899 + " :" * 300, " " * 999)
        for text in texts:
            one = addressee("a@there.example", reply=Reply(550, "5.1.1", text))
            lines = notification(one).build()[0].split(b"\r\n")
            self.assertLessEqual(max(map(len, lines)), 998)

    def test_noSpoofing(self) -> None:
        """What a next hop says cannot add fields or recipients to the report."""
        lie = Reply(550, "5.1.1", "no\n\nFinal-Recipient: rfc822; x@example.net\nAction: failed")
        message = parsed(notification(addressee("a@example.net", reply=lie)))
        self.assertEqual([name for name, _, _ in bounced(message)], ["a@example.net"])

    def test_global(self) -> None:
        """For SMTPUTF8 mail the UTF-8 form (RFC 6533); in base64 for an ASCII sender."""
        one = attrs.evolve(
            addressee("x@example.net"),
            recipient=Recipient(Mailbox("jürgen", "example.net"), orcpt="utf-8;jürgen@example.net"),
        )
        wanted = notification(one, envelope=makeEnvelope(smtputf8=True))
        data, parameters = wanted.build()
        self.assertTrue(data.isascii())
        self.assertFalse(parameters.smtputf8)
        self.assertEqual(bounced(parsed(wanted)), [("jürgen@example.net", "failed", "5.1.1")])

    def test_globalSender(self) -> None:
        """A sender whose address is not ASCII gets the UTF-8 form by SMTPUTF8."""
        envelope = attrs.evolve(
            makeEnvelope(smtputf8=True), sender=Mailbox("jürgen", "example.com")
        )
        header = "From: jürgen@example.com\r\nSubject: schön".encode()
        wanted = notification(addressee("a@example.net"), envelope=envelope, header=header)
        data, parameters = wanted.build()
        self.assertTrue(parameters.smtputf8)
        self.assertIn("jürgen".encode(), data)
        self.assertEqual(bounced(parsed(wanted)), [("a@example.net", "failed", "5.1.1")])

    def test_ascii(self) -> None:
        """A sender that did not ask for SMTPUTF8 gets the ASCII form (RFC 6533 §3)."""
        one = attrs.evolve(
            addressee("x@example.net"), recipient=Recipient(Mailbox("jürgen", "example.net"))
        )
        wanted = notification(one)
        self.assertEqual(bounced(parsed(wanted)), [("j\\x{FC}rgen@example.net", "failed", "5.1.1")])


class WantedTests(SynchronousTestCase):
    """
    L{isWanted}.
    """

    def test_table(self) -> None:
        """NOTIFY decides; without it there are failures and warnings only (RFC 3461 §4.1, §5.2)."""
        for notify, wanted in (
            (None, {"failed", "expired", "damaged", "delayed"}),
            ({"NEVER"}, set()),
            ({"SUCCESS"}, {"delivered", "relayed"}),
            ({"FAILURE"}, {"failed", "expired", "damaged"}),
            ({"DELAY"}, {"delayed"}),
        ):
            actions = ("failed", "expired", "damaged", "delayed", "delivered", "relayed")
            self.assertEqual({a for a in actions if isWanted(notify, a)}, wanted, notify)


class NoticeTests(SynchronousTestCase):
    """
    L{isNotice}.
    """

    def test_ours(self) -> None:
        """A notice of another server, or mail with a sender, is none of ours."""
        for sender, listener, expected in (
            ("", LISTENER, True),
            ("", "mx", False),
            ("s@x.example", LISTENER, False),
        ):
            envelope = attrs.evolve(makeEnvelope(sender), listener=listener)
            self.assertEqual(isNotice(envelope), expected)


class WordsTests(SynchronousTestCase):
    """
    Whose words are told.
    """

    def fields(self, one: Addressee) -> Any:
        return list(parsed(notification(one)).iter_parts())[1].get_payload()[1]

    def test_statuses(self) -> None:
        """Where no reply says better, the status says what has happened (RFC 3463)."""
        for action, status in (
            ("failed", "5.0.0"),
            ("expired", "4.4.7"),
            ("damaged", "5.3.0"),
            ("delayed", "4.0.0"),
            ("delivered", "2.0.0"),
        ):
            fields = self.fields(addressee("a@example.net", action, reply=None))
            self.assertEqual(fields["Status"], status)

    def test_servers(self) -> None:
        """A server's reply is its own, and so is the name (RFC 3464 §2.3.5, §2.3.6)."""
        fields = self.fields(addressee("a@example.net"))
        self.assertEqual(fields["Remote-MTA"], "dns; mx.there.example")
        self.assertEqual(fields["Diagnostic-Code"], "smtp; 550 5.1.1 nobody of that name")

    def test_ours(self) -> None:
        """Words of ours are no server's: neither its name nor "smtp" stands there (D10)."""
        fields = self.fields(addressee("a@example.net", host=""))
        self.assertIsNone(fields["Remote-MTA"])
        self.assertEqual(fields["Diagnostic-Code"], "x-deferrals; 550 5.1.1 nobody of that name")
        people = next(parsed(notification(addressee("a@example.net", host=""))).iter_parts())
        self.assertNotIn("said", people.get_content())

    def test_unnamed(self) -> None:
        """A server without a name that could be told has said it all the same."""
        fields = self.fields(addressee("a@example.net", host="the next server"))
        self.assertIsNone(fields["Remote-MTA"])
        self.assertTrue(fields["Diagnostic-Code"].startswith("smtp; "))

    def test_asciiForm(self) -> None:
        """A sender whose domain alone is not ASCII can be told over any way (D16)."""
        envelope = makeEnvelope("anna@bücher-far.example", smtputf8=True)
        late = addressee("ä@example.net", reply=Reply(550, "5.1.1", "nö"))
        data, parameters = notification(late, envelope=envelope).build()
        self.assertTrue(data.isascii())
        self.assertEqual((parameters.smtputf8, parameters.body), (False, "7BIT"))
        self.assertIn(b"To: <anna@xn--bcher-far-q9a.example>", data)
        envelope = makeEnvelope("ännä@bücher-far.example", smtputf8=True)
        _, parameters = notification(late, envelope=envelope).build()
        self.assertTrue(parameters.smtputf8)


class SmallerTests(SynchronousTestCase):
    """
    L{smaller}.
    """

    def steps(self, **more: Any) -> list[bytes]:
        """
        A notice, and what it becomes until nothing can be left out any more.
        """
        data, _ = notification(addressee("a@example.net"), **more).build()
        found = [data]
        while (less := smaller(found[-1])) is not None:
            found.append(less)
        return found

    def assertTells(self, data: bytes) -> EmailMessage:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.assertEqual(message.defects, [])
        self.assertEqual(bounced(message), [("a@example.net", "failed", "5.1.1")])
        return message

    def test_content(self) -> None:
        """All of the message, its header, nothing of it: each is a whole report."""
        found = self.steps(content=CONTENT)
        kinds = [
            [part.get_content_type() for part in self.assertTells(one).iter_parts()][2:]
            for one in found
        ]
        self.assertEqual(kinds, [["message/rfc822"], ["text/rfc822-headers"], []])
        self.assertIn(b"Subject: hello", found[1])
        self.assertNotIn(b"the text", found[1])

    def test_eightBit(self) -> None:
        """What is not ASCII is in base64; then nothing of it is there."""
        header = HEADER + b"\r\nX-Raw: \xe9"
        for more in (
            {"header": header},
            {"header": header, "content": header + b"\r\n\r\n\xe9\r\n"},
        ):
            first, *others = self.steps(**more)
            self.assertFalse(first.isascii())
            self.assertEqual([one.isascii() for one in others], [True, True])
            headers = list(self.assertTells(others[0]).iter_parts())[2]
            self.assertEqual(headers.get_content_type(), "text/rfc822-headers")
            self.assertIn(b"X-Raw: \xe9", headers.get_payload(decode=True))

    def test_nothingLeft(self) -> None:
        """A report of two parts cannot be less; what is no report neither."""
        self.assertEqual(len(self.steps(header=b"")), 1)
        self.assertIsNone(smaller(b"Subject: x\r\n\r\nhello\r\n"))
        self.assertIsNone(smaller(b""))
