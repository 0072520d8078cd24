"""
Who is let in.
"""

from __future__ import annotations

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.admission import (
    RESERVED_SECONDS,
    WARNING,
    Admission,
    AdmissionWish,
    Proofs,
    admitted,
    keyOf,
    noted,
    noteNames,
    spfDomain,
)
from deferrals.model.envelope import Client
from deferrals.testing import makeEnvelope
from tests.model.test_refusal import makeRefusal

STRANGER = Client("203.0.113.9", 1, "elsewhere.example", "ESMTP")
FRIEND = Client("192.0.2.7", 1, "mx.example.org", "ESMTP")
PROVED = ("dkim example.org", "spf example.org", "network 192.0.2.0/24")


def make(identity: str, path: str = "friend@example.org", once: bool = False) -> Admission:
    return Admission(identity, path, once, 9999.0)


class AdmittedTests(SynchronousTestCase):
    """
    L{admitted}.
    """

    def way(self, by: str | None, *proved: str) -> str:
        refusal = makeRefusal(admits=proved)
        return admitted(refusal, AdmissionWish("X", by=by), 0.0, 60.0).identity

    def test_first(self) -> None:
        """What proves most is what a sender is known by."""
        self.assertEqual(self.way(None, *PROVED), PROVED[0])
        self.assertEqual(self.way(None, *PROVED[1:]), PROVED[1])
        self.assertEqual(self.way(None, *PROVED[2:]), PROVED[2])
        self.assertEqual(self.way(None), "sender friend@example.org")

    def test_chosen(self) -> None:
        """Another can be chosen, where it was proved."""
        self.assertEqual(self.way("network", *PROVED), PROVED[2])
        self.assertEqual(self.way("sender", *PROVED), "sender friend@example.org")
        self.assertRaises(ValueError, self.way, "dkim", *PROVED[1:])
        self.assertRaises(ValueError, self.way, "x", *PROVED)

    def test_nobody(self) -> None:
        """The null path alone is no sender."""
        refusal = makeRefusal(sender="", admits=())
        self.assertRaises(ValueError, admitted, refusal, AdmissionWish("X"), 0.0, 1.0)

    def test_span(self) -> None:
        """It ends."""
        wish = AdmissionWish("X", True, how="link")
        found = admitted(makeRefusal(), wish, 100.0, 60.0)
        said = found.until, found.begun, found.once, found.how
        self.assertEqual(said, (160.0, 100.0, True, "link"))
        found = admitted(makeRefusal(), attrs.evolve(wish, seconds=5.0), 100.0, 60.0)
        self.assertEqual(found.until, 105.0)

    def test_told(self) -> None:
        """A wish is understood as it was told."""
        for wish in (AdmissionWish("X"), AdmissionWish("Y", True, 5.0, "dkim", "link")):
            self.assertEqual(AdmissionWish.fromJSON(wish.toJSON()), wish)


class AdmissionTests(SynchronousTestCase):
    """
    L{Admission} and L{Proofs}.
    """

    def proves(self, identity: str, client: Client, sender: str, proofs: Proofs) -> bool:
        return proofs.prove(make(identity), makeEnvelope(sender, client=client))

    def test_proofs(self) -> None:
        """Each way needs its own proof."""
        own, none = "friend@example.org", Proofs()
        self.assertTrue(self.proves("dkim example.org", STRANGER, own, Proofs({"example.org"})))
        self.assertFalse(self.proves("dkim example.org", FRIEND, own, none))
        self.assertFalse(self.proves("dkim example.org", FRIEND, own, Proofs({"x.example"})))
        self.assertTrue(self.proves("spf example.org", FRIEND, own, Proofs(spf="example.org")))
        self.assertFalse(self.proves("spf example.org", FRIEND, own, none))
        self.assertTrue(self.proves("network 192.0.2.0/24", FRIEND, own, none))
        self.assertFalse(self.proves("network 192.0.2.0/24", STRANGER, own, none))
        self.assertTrue(self.proves("sender friend@example.org", STRANGER, own, none))

    def test_otherSender(self) -> None:
        """It is of one sender: another one of the same domain or network is another one."""
        whole = Proofs({"example.org"}, "example.org")
        for identity in (*PROVED, "sender friend@example.org"):
            self.assertFalse(self.proves(identity, FRIEND, "other@example.org", whole), identity)

    def test_tagged(self) -> None:
        """A sender that marks its path anew for each message stays the same."""
        own = Proofs(spf="example.org")
        path = "prvs=1234567890=friend@example.org"
        self.assertTrue(self.proves("spf example.org", FRIEND, path, own))

    def test_free(self) -> None:
        """One that is for a message is one transaction's, for a while."""
        free = make("spf example.org", once=True)
        self.assertTrue(free.isFree("A", 5000.0))
        taken = attrs.evolve(free, taker="A", taken=5000.0)
        self.assertTrue(taken.isFree("A", 5001.0))
        self.assertFalse(taken.isFree("B", 5001.0))
        self.assertTrue(taken.isFree("B", 5000.0 + RESERVED_SECONDS))
        self.assertTrue(taken.isFree("B", 4000.0))  # the clock was set
        self.assertTrue(attrs.evolve(taken, once=False).isFree("B", 5001.0))

    def test_admits(self) -> None:
        """What a message has proved, for people; no network without an address."""
        found = Proofs({"b.example", "a.example"}, "c.example")
        self.assertEqual(
            found.admits(makeEnvelope(client=FRIEND)),
            ("dkim a.example", "dkim b.example", "spf c.example", "network 192.0.2.0/24"),
        )
        self.assertEqual(Proofs().admits(makeEnvelope(client=Client("local"))), ())
        six = makeEnvelope(client=Client("2001:db8:1:2:3::9"))
        self.assertEqual(Proofs().admits(six), ("network 2001:db8:1:2::/64",))

    def test_nullPath(self) -> None:
        """Of the null path SPF is about the client's name."""
        self.assertEqual(spfDomain(makeEnvelope("", client=FRIEND)), "mx.example.org")

    def test_note(self) -> None:
        """It comes back from a note; what is none does not."""
        one = attrs.evolve(make(PROVED[0], once=True), taker="A", taken=3.0)
        self.assertEqual(Admission.fromJSON(json.loads(json.dumps(one.toJSON()))), one)
        for wrong in (None, 1, [], {}, {"identity": 1, "path": ""}, {"identity": "x", "path": ""}):
            self.assertIsNone(Admission.fromJSON(wrong), wrong)
        name, ofOwner = noteNames("anna@example.net", one)
        text = json.dumps([one.toJSON(), 1, 2.0])
        notes = {
            name: text,
            "x": "y",
            ofOwner: "[null, 1, 2.0]",
            '["mixed", "a", "b"]': text,
            '["admission"]': "[]",
        }
        self.assertEqual(noted(notes), {name: ("anna@example.net", one)})

    def test_told(self) -> None:
        """Who lets a bare address in is warned; the list has no warnings."""
        one, bare = make("network 192.0.2.0/24"), make("sender friend@example.org")
        self.assertEqual(one.told("anna@example.net"), one.shown("anna@example.net"))
        self.assertEqual(
            bare.told("anna@example.net"),
            {**bare.shown("anna@example.net"), "warning": WARNING},
        )

    @given(st.emails())
    def test_keys(self, address: str) -> None:
        """An address as it is shown leads to what is that recipient's, and to no other's."""
        try:
            found = Mailbox.parse(address)
        except ValueError:
            return
        self.assertEqual(keyOf(str(found)), found.key)

    def test_quotedKeys(self) -> None:
        """Also where its local part needs quotes, or has some."""
        for local in ('"q"', "a b", "x@y", 'a"b', "\\", "q"):
            found = Mailbox(local, "example.net")
            self.assertEqual(keyOf(str(found)), found.key, local)
        self.assertNotEqual(keyOf(str(Mailbox('"q"', "z.example"))), "q@z.example")
        self.assertRaises(ValueError, keyOf, "anna")
