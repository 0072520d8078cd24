"""
One transaction as the client sees it.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.model.envelope import Form
from deferrals.model.outgoing import Outgoing
from deferrals.model.reply import Reply
from deferrals.model.sending import R554_BARE_NEWLINE, Sending, isLack, number, unfit
from tests.requirements import requirement

OK = Reply(250, "2.0.0", "ok")
LATER = Reply(352, None, "later")
NO = Reply(550, "5.1.1", "no")
ALL = {"SIZE": ["1000"], "8BITMIME": [], "SMTPUTF8": [], "DSN": [], "CHUNKING": []}


def outgoing(
    *recipients: str, sender: str = "a@x.example", size: int = 10, **more: Any
) -> Outgoing:
    return Outgoing(sender, recipients or ("b@x.example",), size, lambda: iter([]), **more)


class NumberTests(SynchronousTestCase):
    """
    L{number}.
    """

    def test_forms(self) -> None:
        """A number alone, or behind a name; what is none is left out."""
        for words, name, wanted in (
            (["1000"], "", 1000),
            (["0"], "", None),
            (["x", "7"], "", 7),
            (["RCPTMAX=10", "MAILMAX=5"], "MAILMAX", 5),
            (["rcptmax=10"], "RCPTMAX", 10),
            (["RCPTMAX=ten"], "RCPTMAX", None),
            (["\u0663"], "", None),
            ([], "", None),
        ):
            self.assertEqual(number({"X": words}, "X", name), wanted, words)
        self.assertIsNone(number({}, "X"))


class FitTests(SynchronousTestCase):
    """
    L{unfit}.
    """

    def test_table(self) -> None:
        """What a message needs must have been offered."""
        binary = {**ALL, "BINARYMIME": []}
        for message, offered, verified, wanted in (
            (outgoing(), {}, False, None),
            (outgoing(size=1001), ALL, False, "5.3.4"),
            (outgoing(size=1000), ALL, False, None),
            (outgoing(eightBit=True), {}, False, "5.6.3"),
            (outgoing(eightBit=True), ALL, False, None),
            (outgoing("\u00fc@x.example"), {"8BITMIME": []}, False, "5.6.7"),
            (outgoing("\u00fc@x.example"), ALL, False, None),
            (outgoing(binary=True), ALL, False, "5.6.3"),
            (outgoing(binary=True), binary, False, None),
            (outgoing(requireTLS=True), {"REQUIRETLS": []}, False, "5.7.30"),
            (outgoing(requireTLS=True), ALL, True, "5.7.30"),
            (outgoing(requireTLS=True), {"REQUIRETLS": []}, True, None),
        ):
            reply = unfit(message, offered, verified)
            self.assertEqual(None if reply is None else reply.enhanced, wanted, message)
            self.assertTrue(reply is None or isLack(reply))

    def test_isLack(self) -> None:
        """What the message is refused for everywhere, or a server has said, is no lack."""
        for reply in (
            R554_BARE_NEWLINE,
            Reply(552, "5.3.4", "no", True),
            Reply(550, "5.1.1", "no"),
        ):
            self.assertFalse(isLack(reply))


class CommandTests(SynchronousTestCase):
    """
    L{Sending.commands}.
    """

    def commands(self, message: Outgoing, form: Form, offered: Any, chunking: bool = False) -> Any:
        return Sending(message, form, offered, chunking).commands()

    def test_parameters(self) -> None:
        """A parameter goes where its keyword was offered."""
        message = outgoing(
            "b@x.example",
            eightBit=True,
            parameters=[("DSN", "RET=FULL")],
            recipientParameters={0: [("DSN", "NOTIFY=NEVER")]},
        )
        self.assertEqual(
            self.commands(message, Form.PRDR, ALL),
            [
                "MAIL FROM:<a@x.example> SIZE=10 BODY=8BITMIME RET=FULL PRDR",
                "RCPT TO:<b@x.example> NOTIFY=NEVER",
                "DATA",
            ],
        )
        plain = ["MAIL FROM:<a@x.example> BODY=8BITMIME", "RCPT TO:<b@x.example>", "DATA"]
        self.assertEqual(self.commands(message, Form.PLAIN, {"8BITMIME": []}), plain)

    def test_chunks(self) -> None:
        """With BDAT there is no DATA; under LMTP there is."""
        self.assertEqual(self.commands(outgoing(), Form.PLAIN, ALL, True)[-1][:4], "RCPT")
        self.assertEqual(self.commands(outgoing(), Form.LMTP, ALL, True)[-1], "DATA")


class ReplyTests(SynchronousTestCase):
    """
    What the replies come to.
    """

    def sending(self, form: Form, *replies: Reply) -> Sending:
        names = [f"{index}@x.example" for index in range(len(replies))]
        sending = Sending(outgoing(*names), form, ALL, False)
        commands = sending.commands()
        for command, reply in zip(commands, (OK, *replies), strict=False):
            sending.answered(command, reply)
        return sending

    @requirement("D-10")
    @requirement("P-6")
    def test_listed(self) -> None:
        """A 353 is about whom 352 was said to; under PRDR about all who are in."""
        self.assertEqual(self.sending(Form.DEFERRALS, OK, LATER, NO, LATER).listed, [1, 3])
        self.assertEqual(self.sending(Form.PRDR, OK, NO, OK).listed, [0, 2])
        self.assertEqual(self.sending(Form.PLAIN, OK, NO, OK).listed, [])

    @requirement("D-5")
    def test_352(self) -> None:
        """352 is an answer only under DEFERRALS."""
        self.assertRaises(PeerError, self.sending, Form.PRDR, LATER)
        self.assertRaises(PeerError, self.sending, Form.PLAIN, Reply(354, None, "go"))

    def test_wants(self) -> None:
        """Nothing makes sense behind a sender that is refused, and no DATA without recipients."""
        sending = Sending(outgoing(), Form.PLAIN, ALL, False)
        sending.answered("MAIL", NO)
        self.assertFalse(sending.wants("RCPT"))
        self.assertFalse(self.sending(Form.PLAIN, NO).wants("DATA"))
        self.assertTrue(self.sending(Form.PLAIN, NO, OK).wants("DATA"))

    def test_sender(self) -> None:
        """A sender that is refused is everybody's answer."""
        sending = self.sending(Form.PLAIN, OK, OK)
        sending.answered("MAIL", NO)
        self.assertEqual([one.reply for one in sending.result().answers], [NO, NO])

    def test_lost(self) -> None:
        """Whom nothing was said to is to be tried again, and nothing was handed over."""
        result = self.sending(Form.PLAIN, NO, OK).result("the line broke")
        found = [(one.reply.code, one.stage) for one in result.answers]
        self.assertEqual(found, [(550, "envelope"), (451, "envelope")])
        self.assertFalse(result.handedOver)

    def test_refuseAll(self) -> None:
        """Nothing can be sent."""
        sending = self.sending(Form.PLAIN, OK, OK)
        sending.refuseAll(NO)
        self.assertEqual([one.reply for one in sending.result().answers], [NO, NO])
