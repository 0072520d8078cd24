"""
Macros.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import Client
from deferrals.stages.milter.macros import FilterStep, Macros, placeOf, written
from deferrals.testing import makeEnvelope, makeRecipient


class MacroTests(SynchronousTestCase):
    """
    L{Macros}.
    """

    def make(self, **more: str) -> Macros:
        client = Client("192.0.2.1", 25, "c", "ESMTPSA", "me", "TLSv1.3 TLS_AES", "c.test")
        envelope = makeEnvelope("s@x.example", client=client)
        return Macros(envelope, "mx.test", "deferrals 1", {written(k): v for k, v in more.items()})

    def test_places(self) -> None:
        """Each at the step where filters look for it."""
        macros = self.make()
        self.assertEqual(
            macros.at(FilterStep.CONNECT, None),
            {
                "j": "mx.test",
                "_": "c.test [192.0.2.1]",
                "v": "deferrals 1",
                "{daemon_name}": "test",
                "{client_addr}": "192.0.2.1",
                "{client_name}": "c.test",
            },
        )
        wanted = {"{tls_version}": "TLSv1.3", "{cipher}": "TLS_AES"}
        self.assertEqual(macros.at(FilterStep.HELO, None), wanted)
        found = macros.at(FilterStep.MAIL, None)
        self.assertEqual((found["{mail_addr}"], found["{auth_authen}"]), ("s@x.example", "me"))
        found = macros.at(FilterStep.RCPT, None, makeRecipient("r@x.example"))
        self.assertEqual(found, {"{rcpt_addr}": "r@x.example"})
        self.assertEqual(list(macros.at(FilterStep.EOM, None)), ["i"])
        self.assertEqual(macros.at(FilterStep.BODY, None), {})

    def test_unknown(self) -> None:
        """What is not known is not sent."""
        macros = Macros(makeEnvelope("", client=Client("unknown")), "mx", "v", {})
        self.assertEqual(macros.at(FilterStep.HELO, None), {})
        self.assertEqual(list(macros.at(FilterStep.MAIL, None)), ["i"])
        self.assertEqual(macros.at(FilterStep.CONNECT, None)["{client_name}"], "unknown")
        local = Macros(makeEnvelope("", client=Client("local")), "mx", "v", {})
        self.assertEqual(local.at(FilterStep.CONNECT, None)["_"], "localhost [127.0.0.1]")

    def test_more(self) -> None:
        """A configuration's own: in place of ours, or where filters expect them."""
        macros = self.make(j="other", auth_type="PLAIN", own="x\u202ey", verify="OK")
        self.assertEqual(macros.at(FilterStep.CONNECT, None)["j"], "other")
        self.assertEqual(macros.at(FilterStep.CONNECT, None)["{own}"], "x\u202ey")
        self.assertEqual(macros.at(FilterStep.MAIL, None)["{auth_type}"], "PLAIN")
        self.assertEqual(macros.at(FilterStep.HELO, None)["{verify}"], "OK")
        self.assertIs(placeOf("{rcpt_host}"), FilterStep.RCPT)

    def test_wanted(self) -> None:
        """A filter that says which ones it wants gets these, where it wants them."""
        macros, recipient = self.make(), makeRecipient("r@x.example")
        self.assertEqual(
            macros.at(FilterStep.EOM, ("j", "client_name", "{nothing}")),
            {
                "j": "mx.test",
                "{client_name}": "c.test",
            },
        )
        self.assertEqual(macros.at(FilterStep.RCPT, ("j",), recipient), {"j": "mx.test"})
        self.assertEqual(len(macros.at(FilterStep.RCPT, ("{rcpt_addr}",), recipient)), 1)
        self.assertEqual(macros.at(FilterStep.CONNECT, ()), {})

    def test_session(self) -> None:
        """What is said of the session tells sessions apart."""
        self.assertEqual(self.make().session, self.make().session)
        self.assertNotEqual(self.make().session, self.make(j="other").session)
