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
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import Form
from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.smtp.server.mixed import MixedPolicy
from tests.harness import GREETING, Bench
from tests.requirements import requirement
from tests.senders import Connection, Sender, decide, run

REFUSALS = [Refuse(Reply(550, "5.7.1", "no")), Refuse(Reply(552, "5.2.3", "too long"))]

#: (first recipient's cohort, verdict) for each cohort there is.
_cohorts = st.lists(st.sampled_from([ACCEPT, ACCEPT, *REFUSALS]), min_size=1, max_size=4)
_envelope = st.sampled_from(["defer", "defer", "defer", "accept", "old-user"])

ADDRESSES: list[Callable[[int], str]] = [
    lambda attempt: "sender@example.com",
    lambda attempt: "aligned@example.com",
    lambda attempt: f"prvs={attempt}123abcdef=sender@example.com",
    lambda attempt: f"SRS0=ab{attempt}d=X{attempt}=example.com=sender@forward.example",
    lambda attempt: f"bounce-{attempt}00{attempt}@news.example",
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
    @settings(max_examples=300)
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

    @settings(max_examples=100, deadline=None)
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

    def test_unrecognised(self) -> None:
        """A sender that is not recognised when it comes back gets to an end all the same."""
        for choice in (Mixed.SPLIT, Mixed.RETRY):
            bench = Bench(mixed=choice)
            decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
            names = ["anna", "berta", "carla", "dora", "emma", "frieda", "gerda", "hilde"]
            sender = Sender(
                bench,
                ["b@example.net", "a@example.net"],
                address=lambda attempt, names=names: f"{names[attempt]}@example.com",
            )
            run(sender, [300] * 7)
            self.assertEqual(sender.pending, [], choice)
            self.assertEqual(bench.released[0], "a@example.net")

    def test_counters(self) -> None:
        """What the choice costs is counted: who is sent away, retried, and for how long."""
        bench = Bench(mixed=Mixed.SPLIT)
        decide(
            bench,
            {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]},
            {"a@example.net": 0, "b@example.net": 1},
        )
        sender = Sender(bench, ["b@example.net", "a@example.net"], Form.PLAIN)
        run(sender, iter([700.0] * 5))
        counted = bench.status.counted
        self.assertEqual(counted("mixed", "recipients sent away"), 2)
        self.assertEqual(counted("mixed", "refused for now"), 1)
        self.assertEqual(counted("mixed", "retry seen"), 2)
        self.assertEqual(counted("seconds to the last recipient", "< 1 h"), 1)
        self.assertEqual(counted("transactions", "mixed"), 1)


class StrangerTests(SynchronousTestCase):
    """
    What somebody can do who uses another's name.
    """

    def setUp(self) -> None:
        self.bench = Bench(mixed=Mixed.RETRY)
        decide(self.bench, {f"a{number}@example.net": ACCEPT for number in range(60)}, {})
        decide(self.bench, {"b@example.net": REFUSALS[0]}, {})

    def poison(self, number: int) -> None:
        """
        A message whose recipients differ, and whose sender does not come back.
        """
        sender = Sender(
            self.bench,
            [f"a{number}@example.net", "b@example.net"],
            messageId=f"<poison{number}@x>",
        )
        sender.attempt(0)

    def honest(self, bench: Bench, *recipients: str) -> int:
        """
        @return: how often a message that everybody takes had to be brought.
        """
        sender = Sender(bench, list(recipients), messageId=f"<honest{len(bench.released)}@x>")
        run(sender, [300] * 10)
        self.assertEqual(sender.pending, [])
        self.assertEqual({reply[0] for reply in sender.told.values()}, {"2"})
        return sender.transactions

    def test_poison(self) -> None:
        """
        A message that never comes back delays other mail of its sender by a few
        attempts, once; whatever else is made up meanwhile.
        """
        self.poison(0)
        decide(self.bench, {"b@example.net": ACCEPT}, {})
        self.assertEqual(self.honest(self.bench, "b@example.net"), 3)
        for number in range(1, 60):
            decide(self.bench, {"b@example.net": REFUSALS[0]}, {})
            self.poison(number)
            decide(self.bench, {"b@example.net": ACCEPT}, {})
            self.assertEqual(self.honest(self.bench, "b@example.net"), 1)
            self.assertEqual(self.honest(self.bench, "a7@example.net"), 1)

    def test_submission(self) -> None:
        """
        Whatever is remembered, a listener that neither splits nor retries sends
        nobody away: clients show a 452 to their user as a failure.
        """
        self.poison(0)
        for choice in (Mixed.STRICTEST, Mixed.NOTIFY, Mixed.FILE):
            other = Bench(mixed=choice, memory=self.bench.memory)
            decide(other, {"b@example.net": ACCEPT}, {})
            self.assertEqual(self.honest(other, "b@example.net"), 1)

    def test_sentAway(self) -> None:
        """Recipients that are sent away are not collected without end."""
        bench = Bench(mixed=Mixed.SPLIT, limits={"recipients": 10})
        bench.content.cohorts.update({f"r{n}@example.net": n for n in range(100)})
        bench.say(*GREETING, "MAIL FROM:<s@example.com>")
        replies = [bench.say(f"RCPT TO:<r{n}@example.net>")[0] for n in range(100)]
        self.assertEqual({reply[:9] for reply in replies[1:]}, {"452 4.5.3"})
        bench.say("DATA", "Message-ID: <1@x>", "")
        decide(bench, {"r0@example.net": REFUSALS[0]}, {})
        self.assertEqual([line[:3] for line in bench.say("text", ".")], ["451"])
        found = bench.memory.find("s@example.com", "r0@example.net", bench.clock.seconds())
        self.assertEqual(len(found), 1)
        known = [bench.memory.find("s@example.com", f"r{n}@example.net", 0) for n in range(100)]
        self.assertEqual(sum(map(len, known)), 11)


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

    def test_knownBeforeTheReply(self) -> None:
        """
        A sender may come again within milliseconds: what its message was is
        known before it has an answer.
        """
        bench = Bench(mixed=Mixed.RETRY)
        decide(bench, {"a@example.net": ACCEPT, "b@example.net": REFUSALS[0]}, {})
        Sender(bench, ["a@example.net", "b@example.net"]).attempt(0)
        held: Deferred[None] = Deferred()

        class Slow(MixedPolicy):
            def fingerprint(self, message: Any) -> Deferred[str]:
                found = MixedPolicy.fingerprint(self, message)
                return found if held.called else held.addCallback(lambda _: found)

        slow = Slow(**attrs.asdict(bench.mixed, recurse=False))
        bench.backend = attrs.evolve(bench.backend, mixed=slow)
        connection = Connection(bench)
        connection.say(["MAIL FROM:<sender@example.com>", "RCPT TO:<a@example.net>", "DATA"])
        self.assertEqual(connection.say(["Message-ID: <1@example.com>", "", "text", "."]), [])
        held.callback(None)
        self.assertEqual([reply[:3] for reply in connection.said()], ["250"])
        connection.say(["MAIL FROM:<sender@example.com>"])
        self.assertEqual(connection.say(["RCPT TO:<b@example.net>"])[0][:3], "250")
