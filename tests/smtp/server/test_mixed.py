"""
Whatever the sender speaks, and whatever the listener's choice: at the end every
recipient that accepts has the message once, none that refuses has it, and the
sender was told of every refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import Changed
from deferrals.model.envelope import Envelope, Form
from deferrals.model.mixed import Mixed
from deferrals.model.mixedrecord import Fingerprint, Record, State
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.server.notes import Notes
from deferrals.smtp.server.mixed import PUT_SECONDS, fingerprintOf
from deferrals.testing import makeMessage
from tests.harness import GREETING, Bench, Transport
from tests.requirements import requirement
from tests.rigs import examples
from tests.senders import Connection, Sender, decide, run

#: Whose notes those of the bench's client are.
NETWORK = "net:192.0.2.0/24 sender@example.com"

REFUSALS = [Refuse(Reply(550, "5.7.1", "no")), Refuse(Reply(552, "5.2.3", "too long"))]

#: (first recipient's cohort, verdict) for each cohort there is.
_cohorts = st.lists(st.sampled_from([ACCEPT, ACCEPT, *REFUSALS]), min_size=1, max_size=4)
_envelope = st.sampled_from(["defer", "defer", "defer", "accept", "old-user"])

ADDRESSES: list[Callable[[int], str]] = [
    lambda attempt: "sender@example.com",
    lambda attempt: "aligned@example.com",
    lambda attempt: f"prvs={attempt}123abcdef=sender@example.com",
    lambda attempt: f"SRS0=ab{attempt}d=X{attempt}=example.com=sender@forward.example",
    lambda attempt: f"bounce+x{attempt}=y{attempt}.example@news.example",
]


class SenderTests(SynchronousTestCase):
    """
    Models of senders against real sessions.
    """

    def check(self, bench: Bench, sender: Sender, verdicts: dict[str, Any]) -> None:
        """
        Exactly once, never, and told.
        """
        delivered = [name for name in bench.released if ":" not in name]
        diverted = {name.partition(":")[0] for name in bench.released if ":" in name}
        accepts = [recipient for recipient, verdict in verdicts.items() if verdict == "accept"]
        self.assertEqual(sorted(delivered), sorted(accepts), bench.released)
        for recipient, verdict in verdicts.items():
            told = sender.told.get(recipient, "nothing")
            if recipient in diverted:
                aligned = sender.address(0).startswith("aligned")
                kind = "notified" if bench.mixed.choice is Mixed.NOTIFY and aligned else "filed"
                self.assertEqual(bench.released.count(f"{recipient}:{kind}"), 1, bench.released)
            if verdict == "accept" or recipient in diverted:
                self.assertEqual(told[0], "2", (recipient, sender.told))
            else:
                self.assertEqual(told[0], "5", (recipient, sender.told))
        allowed = {Mixed.NOTIFY, Mixed.FILE}
        if bench.mixed.choice not in allowed or sender.form is not Form.PLAIN:
            self.assertEqual(diverted, set())

    @requirement("D-10")
    @requirement("D-17")
    @requirement("P-3")
    @requirement("P-6")
    @requirement("P-11")
    @requirement("S-1")
    @requirement("S-2")
    @requirement("S-3")
    @settings(max_examples=examples(300))
    @given(st.data())
    def test_exact(self, data: Any) -> None:
        """For random recipients, cohorts, verdicts and sender behaviours."""
        form = data.draw(st.sampled_from([Form.PLAIN] * 4 + [Form.PRDR, Form.DEFERRALS, Form.LMTP]))
        choice = data.draw(st.sampled_from([Mixed.SPLIT, Mixed.RETRY, Mixed.NOTIFY, Mixed.FILE]))
        protocol = "lmtp" if form is Form.LMTP else "smtp"
        bench = Bench(mixed=choice, protocol=protocol)
        cohorts = data.draw(_cohorts)
        wanted: dict[str, Any] = {}
        for number in range(data.draw(st.integers(1, 6))):
            address = f"r{number}@example.net"
            cohort = data.draw(st.integers(0, len(cohorts) - 1))
            envelope = data.draw(_envelope)
            bench.envelope.verdicts[address] = envelope
            decide(bench, {address: cohorts[cohort]}, {address: cohort})
            wanted[address] = {"accept": "accept", "old-user": "refuse"}.get(
                envelope, "accept" if cohorts[cohort] == ACCEPT else "refuse"
            )
        # A cohort is asked about once, under the name of its first member.
        for address, cohort in bench.content.cohorts.items():
            decide(bench, {address: cohorts[cohort]}, {})
        sender = Sender(
            bench,
            data.draw(st.permutations(list(wanted))),
            form,
            pipelined=data.draw(st.booleans()),
            keepsApart=data.draw(st.booleans()),
            again=data.draw(st.booleans()),
            address=data.draw(st.sampled_from(ADDRESSES)),
        )
        waits = data.draw(st.lists(st.sampled_from([0.001, 60, 900]), min_size=25, max_size=25))
        run(sender, waits)
        self.assertEqual(sender.pending, [])
        self.check(bench, sender, wanted)

    @settings(max_examples=examples(100), deadline=None)
    @given(st.data())
    def test_several(self, data: Any) -> None:
        """
        Several messages of one sender to the same recipients, at the same time:
        at RCPT nobody knows which of them comes.  None waits for ever.
        """
        choice = data.draw(st.sampled_from([Mixed.SPLIT, Mixed.RETRY]))
        bench = Bench(mixed=choice)
        cohorts = data.draw(_cohorts)
        wanted: dict[str, Any] = {}
        for number in range(data.draw(st.integers(2, 4))):
            address, cohort = f"r{number}@example.net", number % len(cohorts)
            decide(bench, {address: cohorts[cohort]}, {address: cohort})
            wanted[address] = cohorts[cohort]
        pipelined, again = data.draw(st.booleans()), data.draw(st.booleans())
        senders = [
            Sender(
                bench,
                data.draw(st.permutations(list(wanted))),
                pipelined=pipelined,
                again=again,
                messageId=f"<{number}@example.com>",
            )
            for number in range(data.draw(st.integers(2, 3)))
        ]
        for attempt in range(40):
            for sender in senders:
                if sender.pending and (attempt > 15 or data.draw(st.booleans())):
                    sender.attempt(attempt)
            bench.clock.advance(60)
        for sender in senders:
            self.assertEqual(sender.pending, [])
        for address, verdict in wanted.items():
            told = [sender.told[address][0] for sender in senders]
            accepts = verdict == ACCEPT
            filed = bench.released.count(f"{address}:filed")
            self.assertEqual(bench.released.count(address), len(senders) if accepts else 0)
            self.assertEqual(told.count("2"), len(senders) if accepts else filed)
            if choice is Mixed.SPLIT:
                self.assertEqual(filed, 0)

    def test_strictest(self) -> None:
        """strictest: one refusal refuses all, and all are told."""
        bench = Bench(mixed=Mixed.STRICTEST)
        decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
        sender = Sender(bench, ["a@example.net", "b@example.net"])
        run(sender, [])
        self.assertEqual({reply[0] for reply in sender.told.values()}, {"5"})
        self.assertEqual(bench.released, [])

    def test_agreement(self) -> None:
        """Mail that all accept is taken at the first attempt; nothing is noted."""
        for form in (Form.PLAIN, Form.PRDR):
            bench = Bench()
            names = [f"{name}@example.net" for name in "abcd"]
            decide(bench, dict.fromkeys(names, ACCEPT), {name: name for name in names})
            sender = Sender(bench, names, form)
            run(sender, [])
            self.assertEqual((sender.transactions, bench.released), (1, names))
            self.assertEqual(bench.notes.find("mixed", NETWORK), [])

    def test_counters(self) -> None:
        """What the choice costs is counted: who is sent away, retried, and for how long."""
        bench = Bench()
        decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
        sender = Sender(bench, ["b@example.net", "a@example.net"], Form.PLAIN)
        run(sender, iter([700.0] * 5))
        counted = bench.status.counted
        self.assertEqual(counted("mixed", "recipients sent away"), 1)
        self.assertEqual(counted("mixed", "refused for now"), 1)
        self.assertEqual(counted("mixed", "retry seen"), 2)
        counters = bench.status.snapshot()["counters"]
        self.assertEqual(counters["seconds to the last recipient"], {"< 1 h": 1})
        self.assertEqual(counted("transactions", "mixed"), 1)


class StrangerTests(SynchronousTestCase):
    """
    What a client can do that uses another's name.
    """

    def test_sentAway(self) -> None:
        """Recipients that are sent away are not collected without end."""
        bench = Bench(mixed=Mixed.SPLIT, limits={"recipients": 10})
        bench.content.cohorts.update({f"r{n}@example.net": n for n in range(100)})
        bench.say(*GREETING, "MAIL FROM:<sender@example.com>")
        replies = [bench.say(f"RCPT TO:<r{n}@example.net>")[0] for n in range(100)]
        self.assertEqual({reply[:9] for reply in replies[1:]}, {"452 4.5.3"})
        bench.say("DATA", "Message-ID: <1@x>", "")
        decide(bench, {"r0@example.net": REFUSALS[0]}, {})
        self.assertEqual([line[:3] for line in bench.say("text", ".")], ["451"])
        ((_, value, _),) = bench.notes.find("mixed", NETWORK)
        self.assertEqual(len(Record.fromJSON(value).states), 11)

    def test_submission(self) -> None:
        """
        Whatever is noted, a listener that refuses for all sends nobody away:
        clients show a 452 to their user as a failure.
        """
        bench = mixed()
        Sender(bench, ["a@example.net", "b@example.net"]).attempt(0)
        other = Bench(mixed=Mixed.STRICTEST, notes=bench.notes)
        decide(other, {"a@example.net": ACCEPT, "b@example.net": ACCEPT}, {})
        sender = Sender(other, ["b@example.net", "a@example.net"])
        run(sender, [])
        self.assertEqual((sender.transactions, sender.pending), (1, []))

    def test_proved(self) -> None:
        """
        SPF is asked only where something is noted; what was learnt of a sender
        for which it passes is not used for one that forges its name.
        """
        bench = mixed()
        asked: list[str] = []

        def proved(envelope: Envelope) -> Deferred[str | None]:
            asked.append(envelope.client.address)
            return succeed("example.com" if envelope.client.address == "192.0.2.1" else None)

        bench.mixed = attrs.evolve(bench.mixed, proved=proved)
        bench.backend = attrs.evolve(bench.backend, mixed=bench.mixed)
        decide(bench, {"b@example.net": ACCEPT}, {})
        Sender(bench, ["a@example.net", "b@example.net"]).attempt(0)
        self.assertEqual(asked, [])
        decide(bench, {"b@example.net": REFUSALS[0]}, {})
        Sender(bench, ["a@example.net", "b@example.net"]).attempt(0)
        self.assertEqual(asked, ["192.0.2.1"])
        self.assertEqual(len(bench.notes.find("mixed", "spf:example.com sender@example.com")), 1)
        stranger = Bench(notes=bench.notes, transport=Transport("192.0.2.9"))
        stranger.mixed = attrs.evolve(bench.mixed)
        stranger.backend = attrs.evolve(stranger.backend, mixed=bench.mixed)
        stranger.session.backend = stranger.backend
        said = stranger.say(*GREETING, "MAIL FROM:<sender@example.com>")
        said = stranger.say("RCPT TO:<b@example.net>", "RCPT TO:<a@example.net>")
        self.assertEqual([line[:3] for line in said], ["250", "250"])


def mixed(**settings: Any) -> Bench:
    """
    A server where a@ accepts, and b@ refuses.
    """
    bench = Bench(**settings)
    decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
    return bench


class NotesTests(SynchronousTestCase):
    """
    When what was learnt is noted, and what becomes of a message where it cannot
    be.
    """

    def start(self, notes: Any) -> tuple[Bench, Connection]:
        bench = mixed()
        bench.backend = attrs.evolve(
            bench.backend, mixed=attrs.evolve(bench.mixed, notes=notes(bench.clock))
        )
        connection = Connection(bench)
        connection.say(["MAIL FROM:<sender@example.com>"])
        connection.say(["RCPT TO:<a@example.net>", "RCPT TO:<b@example.net>", "DATA"])
        return bench, connection

    def test_beforeTheReply(self) -> None:
        """A client may come again at once: it is known before the 4xx is written."""
        held: Deferred[None] = Deferred()

        class Slow(Notes):
            def put(self, *args: Any, **more: Any) -> Deferred[int]:
                return held.addCallback(lambda _: Notes.put(self, *args, **more))

        _, connection = self.start(Slow)
        self.assertEqual(connection.say(["Message-ID: <1@example.com>", "", "text", "."]), [])
        held.callback(None)
        self.assertEqual([reply[:3] for reply in connection.said()], ["451"])
        connection.say(["MAIL FROM:<sender@example.com>"])
        said = connection.say(["RCPT TO:<b@example.net>", "RCPT TO:<a@example.net>"])
        self.assertEqual([reply[:3] for reply in said], ["452", "250"])

    def test_notPut(self) -> None:
        """What cannot be noted, or not in two seconds, is refused for now all the same."""

        class Never(Notes):
            def put(self, *args: Any, **more: Any) -> Deferred[int]:
                return Deferred()

        class Fails(Notes):
            def put(self, *args: Any, **more: Any) -> Deferred[int]:
                return fail(OSError("away"))

        for notes in (Never, Fails):
            bench, connection = self.start(notes)
            said = connection.say(["Message-ID: <1@example.com>", "", "text", "."])
            bench.clock.advance(PUT_SECONDS)
            said += connection.said()
            self.assertEqual([reply[:3] for reply in said], ["451"], notes)
            self.assertEqual(len(self.flushLoggedErrors()), 1)
            self.assertEqual(bench.released, [])

    def test_notFound(self) -> None:
        """Notes that cannot be read are as if there were none; agreement needs none."""

        class Fails(Notes):
            def find(self, kind: str, group: str) -> Any:
                return fail(OSError("away"))

        bench, connection = self.start(Fails)
        decide(bench, {"b@example.net": ACCEPT}, {})
        said = connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        self.assertEqual([reply[:3] for reply in said], ["250"])
        self.assertTrue(self.flushLoggedErrors())

    def test_raises(self) -> None:
        """Notes that raise at once are no worse than those that fail later."""

        class Raises(Notes):
            def find(self, kind: str, group: str) -> Any:
                raise OSError("away")

        _, connection = self.start(Raises)
        said = connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        self.assertEqual([reply[:3] for reply in said], ["451"])
        self.assertTrue(self.flushLoggedErrors(OSError))

    def test_notPutBehindTheReply(self) -> None:
        """What is noted behind a reply is not waited for longer than before one."""
        kept: list[Deferred[int]] = []

        class Late(Notes):
            def put(self, *args: Any, **more: Any) -> Deferred[int]:
                if not kept:
                    kept.append(Deferred())
                    return Notes.put(self, *args, **more)
                kept.append(Deferred(lambda _: None))
                return kept[-1]

        bench, connection = self.start(Late)
        connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        connection.say(["MAIL FROM:<sender@example.com>"])
        connection.say(["RCPT TO:<b@example.net>", "RCPT TO:<a@example.net>", "DATA"])
        said = connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        self.assertEqual([reply[:3] for reply in said], ["250"])
        self.assertFalse(kept[1].called)
        bench.clock.advance(PUT_SECONDS)
        self.assertTrue(kept[1].called)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def unproved(self, bench: Bench) -> Connection:
        """A client of which it takes for ever to find out who it is."""
        now = bench.backend.mixed
        now = attrs.evolve(now, proved=lambda envelope: Deferred())
        bench.backend = attrs.evolve(bench.backend, mixed=now)
        return Connection(bench)

    def test_clientGone(self) -> None:
        """A client that leaves meanwhile is no error of ours."""
        bench, connection = self.start(Notes)
        connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        connection = self.unproved(bench)
        self.assertEqual(connection.say(["MAIL FROM:<sender@example.com>"]), [])
        connection.close()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_tooLate(self) -> None:
        """Where it is not found out in time, it is not storage that is missing."""
        bench = mixed()
        connection = self.unproved(bench)
        connection.say(["MAIL FROM:<sender@example.com>"])
        connection.say(["RCPT TO:<a@example.net>", "RCPT TO:<b@example.net>", "DATA"])
        connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        bench.clock.advance(bench.settings.reply_deadline)
        self.assertEqual([reply[:9] for reply in connection.said()], ["451 4.3.0"])

    def test_changed(self) -> None:
        """What another process has noted meanwhile is read, and both are kept."""

        class Others(Notes):
            times = 0

            def put(self, kind: str, group: str, key: str, *rest: Any, **more: Any) -> Any:
                self.times += 1
                if self.times == 2:
                    return fail(Changed(None, 1))
                return Notes.put(self, kind, group, key, *rest, **more)

        bench, connection = self.start(Others)
        connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        connection.say(["MAIL FROM:<sender@example.com>"])
        connection.say(["RCPT TO:<b@example.net>", "RCPT TO:<a@example.net>", "DATA"])
        said = connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        self.assertEqual([reply[:3] for reply in said], ["250"])
        ((_, value, _),) = bench.backend.mixed.notes.find("mixed", NETWORK)
        self.assertIs(Record.fromJSON(value).states["a@example.net"], State.SERVED)

    def test_twoAtOnce(self) -> None:
        """What another process remembers of the same message at the same moment is kept."""

        class Others(Notes):
            times = 0

            def put(
                self, kind: str, group: str, key: str, value: Any, *rest: Any, **more: Any
            ) -> Any:
                self.times += 1
                if self.times == 1:
                    states = {**value["states"], "c@example.net": State.SERVED.value}
                    Notes.put(self, kind, group, key, {**value, "states": states}, 60)
                return Notes.put(self, kind, group, key, value, *rest, **more)

        bench, connection = self.start(Others)
        connection.say(["Message-ID: <1@example.com>", "", "text", "."])
        ((_, value, _),) = bench.backend.mixed.notes.find("mixed", NETWORK)
        states = Record.fromJSON(value).states
        self.assertIs(states["c@example.net"], State.SERVED)

    def test_noRecord(self) -> None:
        """A note that is no record is logged once, with whose it is, and forgotten."""
        bench = mixed()
        self.successResultOf(bench.notes.put("mixed", NETWORK, "x", {"states": 5}, 60))
        for _ in range(2):
            connection = Connection(bench)
            self.assertEqual(connection.say(["MAIL FROM:<sender@example.com>"])[0][:3], "250")
            connection.close()
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.assertEqual(bench.notes.find("mixed", NETWORK), [])

    def test_notStored(self) -> None:
        """
        A message that all accept but that could not be stored is nobody's: its
        next attempt is delivered.
        """
        bench = mixed()
        sender = Sender(bench, ["b@example.net", "a@example.net"])
        sender.attempt(0)
        bench.spool.full = True
        sender.attempt(1)
        self.assertEqual((sender.told, bench.released), ({}, []))
        bench.spool.full = False
        run(sender, [60.0] * 4)
        self.assertEqual(bench.released, ["a@example.net"])
        self.assertEqual([sender.told[f"{one}@example.net"][:3] for one in "ab"], ["250", "550"])


class FingerprintTests(SynchronousTestCase):
    """
    L{fingerprintOf}.
    """

    def of(self, text: str) -> Fingerprint:
        return fingerprintOf(makeMessage(text.replace("\n", "\r\n").encode()))

    def test_ident(self) -> None:
        """Message-ID and Date, and only both; trace fields that were added change nothing."""
        one = self.of("Message-ID: <1@x>\nDate: now\n\ntext\n")
        self.assertEqual(one, self.of("Received: by x\nDate: now\nMessage-ID: <1@x>\n\ntext\n"))
        self.assertTrue(one.ident)
        for text in ("Message-ID: <1@x>\n\ntext\n", "Date: now\n\ntext\n", "\ntext\n"):
            self.assertEqual(self.of(text).ident, "")

    def test_boundaries(self) -> None:
        """MIME boundaries are made anew at each call; the rest is not."""
        text = (
            "Content-Type: multipart/mixed; boundary={0}\n\n--{0}\n"
            "Content-Type: multipart/alternative;\n boundary={0}2\n\n--{0}2\n\n{1}\n--{0}--\n"
        )
        self.assertEqual(self.of(text.format("a", "text")), self.of(text.format("bb", "text")))
        self.assertNotEqual(self.of(text.format("a", "text")), self.of(text.format("a", "other")))

    def test_large(self) -> None:
        """Reading in pieces makes no difference, nor do lines without an end."""
        for body in ("x" * 1000000, ("y" * 70 + "\n") * 20000):
            self.assertEqual(self.of(f"\n{body}\n"), self.of(f"Subject: a\n\n{body}\n"))

    def test_exim(self) -> None:
        """Only the topmost trace field says who sends."""
        exim = "Received: from a by b with esmtp (Exim 4.96)\n"
        self.assertTrue(self.of(f"{exim}\ntext\n").forAll)
        self.assertFalse(self.of(f"Received: by c\n{exim}\ntext\n").forAll)
        self.assertFalse(self.of("Received: by c\n\ntext\n").forAll)


class DivertedTests(SynchronousTestCase):
    """
    What becomes of refused copies, and of what was learnt.
    """

    def test_filed(self) -> None:
        """
        Nobody is told what becomes of a filed copy: neither that a quarantine
        has it (NOTIFY=SUCCESS), nor that it failed: the sender may be forged.
        """
        bench = Bench(mixed=Mixed.FILE)
        decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
        bench.say(*GREETING, "MAIL FROM:<s@example.com>")
        bench.say(*[f"RCPT TO:<{one}@example.net> NOTIFY=SUCCESS,FAILURE" for one in "ab"])
        bench.say("DATA", "Subject: x", "", "text", ".")
        self.assertEqual(bench.released, ["a@example.net", "b@example.net:filed"])
        notify = [addressee.recipient.notify for addressee in bench.works[-1].addressees]
        self.assertEqual(notify, [{"SUCCESS", "FAILURE"}, {"NEVER"}])


class GaveUpTests(SynchronousTestCase):
    """
    A client that gives up the whole message where some are sent away.
    """

    def test_behindData(self) -> None:
        """
        One that says DATA in one piece with its RCPTs can only close the connection
        (msmtp): that counts as much as before DATA; not so in the middle of
        the message, where a lost connection is only that.
        """
        for text, expected in (([], "550"), (["text"], "452")):
            bench = mixed()
            bench.say(*GREETING, *ENVELOPE)
            self.assertEqual(bench.say("Message-ID: <1@a>", "", "text", ".")[0][:3], "451")
            for _ in range(2):
                bench = mixed(notes=bench.notes)
                said = bench.say(*GREETING, *ENVELOPE)[-4:]
                self.assertEqual([line[:3] for line in said], ["250", "250", "452", "354"])
                bench.say(*text)
                bench.lose()
            bench = mixed(notes=bench.notes)
            said = bench.say(*GREETING, *ENVELOPE)
            said += bench.say("Message-ID: <1@a>", "", "text", ".")
            self.assertIn(expected, [line[:3] for line in said])


#: All of it in one piece.
ENVELOPE = (
    "MAIL FROM:<sender@example.com>",
    "RCPT TO:<a@example.net>",
    "RCPT TO:<b@example.net>",
    "DATA",
)
