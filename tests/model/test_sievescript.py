"""
Scripts as they are looked at, and what the engine says of a run.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.sievescript import REASON_OCTETS, STORE, Decision, Script, decisionOf

REJECT = " * reject message with reason: "


def said(*actions: str, kept: str = "  (none)") -> str:
    """What the engine prints."""
    performed = "\n".join(actions) or "  (none)"
    return f"\nPerformed actions:\n\n{performed}\n\nImplicit keep:\n\n{kept}\n\n"


class ScriptTests(SynchronousTestCase):
    """
    L{Script}.
    """

    def test_decides(self) -> None:
        """It names what refuses or throws away, outside of comments and strings."""
        for text, wanted in (
            ('require "reject"; reject "x";', True),
            ("DISCARD;", True),
            ('require "ereject"; if true { eReject "x"; }', True),
            ("if true{discard;}", True),
            ("", False),
            ("keep;", False),
            ("# discard;\nkeep;", False),
            ("/* discard;\n */ keep;", False),
            ('if header "Subject" "discard" { keep; }', False),
            ('if header "Subject" "a\\" discard" { keep; }', False),
            ('require "vacation"; vacation text:\ndiscard;\n.\n;', False),
            ("vacation text: # discard\ndiscard;\n..discard;\n.\r\n; discard;", True),
            ("discards;", False),
            ("/* discard;", False),
        ):
            self.assertEqual(Script.read(text.encode()).decides, wanted, text)
        self.assertEqual(Script.read(b"keep;").octets, b"")

    def test_asks(self) -> None:
        """What only the store, or only the envelope, can tell."""
        for text, store, envelope, score in (
            ('if mailboxexists "a" { discard; }', "mailboxes (mailboxexists)", False, False),
            ('include :personal "x"; discard;', "another script (include)", False, False),
            ('if envelope "from" "a" { discard; }', "", True, False),
            ('if Spamtest :value "ge" "5" { discard; }', "", False, True),
            ('require "mailbox"; fileinto :create "x"; discard;', "", False, False),
        ):
            script = Script.read(text.encode())
            self.assertTrue(script.asksStore.endswith(store), text)
            self.assertEqual(bool(script.asksStore), bool(store), text)
            self.assertEqual((script.asksEnvelope, script.asksScore), (envelope, score), text)

    def test_ereject(self) -> None:
        """It is read as C{reject}, and nothing else is changed."""
        for text, wanted in (
            ('require "ereject"; ereject "x";', 'require "reject"; reject "x";'),
            ('require ["a", "Ereject"]; EREJECT "x";', 'require ["a", "reject"]; reject "x";'),
            (
                'if ihave "ereject" { ereject "ereject"; } # ereject',
                'if ihave "reject" { reject "ereject"; } # ereject',
            ),
            (
                'if header "x" "ereject" { reject "a"; } else { ereject "b"; }',
                'if header "x" "ereject" { reject "a"; } else { reject "b"; }',
            ),
        ):
            self.assertEqual(Script.read(text.encode()).octets.decode(), wanted)

    @given(st.binary(max_size=300))
    def test_anything(self, octets: bytes) -> None:
        """Whatever it is, it is read; without C{ereject} it is run as it is."""
        script = Script.read(octets)
        if script.decides and "ereject" not in script.names:
            self.assertEqual(script.octets, octets)


class DecisionTests(SynchronousTestCase):
    """
    L{decisionOf}.
    """

    def test_decisions(self) -> None:
        """Only where nothing else is to be done it is decided here."""
        reject = f"{REJECT}no"
        store = " * store message in folder: Junk"
        for text, wanted in (
            (said(" * discard"), Decision("discard")),
            (said(" * discard", " * discard"), Decision("discard")),
            (said(reject), Decision("reject", "no")),
            (said(reject, " * discard"), Decision("reject", "no")),
            (said(store, " * discard"), STORE),
            (said(reject, store), STORE),
            (said(" * redirect message to: <a@b.example>", " * discard"), STORE),
            (said(" * send vacation message:", "START MESSAGE", " * discard"), STORE),
            (said(" * discard", kept=" * store message in folder: INBOX"), STORE),
            (said(kept=" * store message in folder: INBOX"), STORE),
            (said(), STORE),
            ("", STORE),
            (f"x\n{said(' * discard')}", STORE),
            ("\nPerformed actions:\n\n * discard\n", STORE),
        ):
            self.assertEqual(decisionOf(text), wanted, text)

    def test_reason(self) -> None:
        """A user's text is one line, cleaned and cut."""
        for reason, wanted in (
            ("Go away??second  line", "Go away second line"),
            ("\u202eturned", "\\x{202E}turned"),
            ("\u00fcber\u2028x", "\u00fcber x"),
            ("", ""),
            ("x" * 1000, "x" * REASON_OCTETS),
            ("\u65e5" * 300, "\u65e5" * (REASON_OCTETS // 3)),
        ):
            self.assertEqual(decisionOf(said(REJECT + reason)), Decision("reject", wanted))
        self.assertEqual(decisionOf(said(f"{REJECT}Really??"), True).reason, "Really??")
