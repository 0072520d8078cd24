"""
Aliases in a session: one answer on the wire for each address that was named, in each
way of answering; and who gets the message.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.deferreds import TimeoutError
from deferrals.model.address import Mailbox
from deferrals.model.alias import answer
from deferrals.model.block import Block
from deferrals.model.envelope import Form
from deferrals.model.mixed import Mixed
from deferrals.model.reply import R250_RECIPIENT, R352_DEFERRED, Reply
from deferrals.model.transaction import Candidate
from deferrals.model.verdict import ACCEPT, NOWHERE, ContentVerdict, Defer, Expand, Refuse, Route
from deferrals.smtp.server import envelope
from deferrals.smtp.server.members import NOTE_SECONDS
from deferrals.testing import makeRecipient
from tests.harness import Bench
from tests.requirements import requirement
from tests.workers.test_notes import Cluster

NO = Refuse(Reply(550, "5.6.0", "no, says anna"))
LATER = Refuse(Reply(450, "4.2.0", "later, says anna"))

#: A message with an identity.
TEXT = ("Message-ID: <m@client.example>", "Date: Sun, 29 Nov 2026 12:00:00 +0000", "", "text", ".")


def expand(*names: str, **more: Any) -> Expand:
    return Expand(tuple(Mailbox.parse(f"{name}@example.net") for name in names), **more)


class _Tests(SynchronousTestCase):
    """
    C{all@} stands for C{postmaster}, who accepts in the envelope, and for others who are
    judged.
    """

    def bench(self, *members: str, **settings: Any) -> Bench:
        more = settings.pop("more", {})
        bench = Bench(**settings)
        bench.envelope.verdicts["all@example.net"] = expand(*members, **more)
        return bench

    def begin(self, bench: Bench, *names: str, mail: str = "", rcpt: str = "") -> list[str]:
        """
        @return: what RCPT TO is answered.
        """
        hello = "LHLO c" if bench.settings.protocol == "lmtp" else "EHLO c"
        bench.say(hello)
        bench.say(f"MAIL FROM:<a@b.example>{mail}")
        return [bench.say(f"RCPT TO:<{name}@example.net>{rcpt}")[0] for name in names]

    def data(self, bench: Bench, text: tuple[str, ...] = TEXT, **verdicts: Any) -> list[str]:
        """
        @param verdicts: of members, by their names.
        """
        bench.say("DATA")
        said = bench.say(*text)
        for name, verdict in verdicts.items():
            bench.content.decide(f"{name}@example.net", verdict)
        bench.turns()
        return said + bench.take().decode().splitlines()


def codes(lines: list[str]) -> list[str]:
    return [line[:3] for line in lines]


class PlainTests(_Tests):
    """
    A sender that gets one answer for the message.
    """

    def test_oneAccepts(self) -> None:
        """One that accepts is enough; the refuser's copy is filed, and no bounce is owed."""
        bench = self.bench("anna", "bert")
        self.assertEqual(codes(self.begin(bench, "all")), ["250"])
        said = self.data(bench, anna=ACCEPT, bert=NO)
        self.assertEqual(codes(said), ["250"])
        self.assertEqual(bench.released, ["anna@example.net", "bert@example.net:filed"])
        (work,) = bench.works
        self.assertEqual(
            [str(one.recipient.alias) for one in work.addressees], ["all@example.net"] * 2
        )
        self.assertEqual(work.addressees[0].recipient.orcpt, "rfc822;all@example.net")
        self.assertEqual(work.addressees[1].recipient.notify, {"NEVER"})

    def test_dropped(self) -> None:
        """Where refusers are dropped, nothing is written for them."""
        bench = self.bench("anna", "bert", more={"refusers": "drop"})
        self.begin(bench, "all")
        self.assertEqual(codes(self.data(bench, anna=ACCEPT, bert=NO)), ["250"])
        self.assertEqual(bench.released, ["anna@example.net"])

    def test_nowhere(self) -> None:
        """A member may throw its copy away; the others have theirs, and the log says so."""
        bench = self.bench("anna", "bert", "carl")
        bench.envelope.verdicts["carl@example.net"] = NOWHERE
        self.begin(bench, "all")
        with capturedLogs() as events:
            said = self.data(bench, anna=ACCEPT, bert=NOWHERE)
        self.assertEqual(codes(said), ["250"])
        self.assertEqual(bench.released, ["anna@example.net"])
        found = [(one["recipient"], one["alias"]) for one in events if one.get("outcome")]
        self.assertEqual(
            found,
            [("bert@example.net", "all@example.net"), ("carl@example.net", "all@example.net")],
        )

    def test_allRefuse(self) -> None:
        """The refusal names the alias, and has no word of a member."""
        bench = self.bench("anna", "bert")
        self.begin(bench, "all")
        (said,) = self.data(bench, anna=NO, bert=NO)
        self.assertTrue(said.startswith("550 5.6.0 refused by all"), said)
        self.assertNotIn("anna", said)
        self.assertEqual(bench.released, [])

    def test_later(self) -> None:
        """One that refuses for now delays the alias three times, and then it counts."""
        bench = self.bench("anna", "bert")
        for _ in range(3):
            self.begin(bench, "all")
            (said,) = self.data(bench, anna=ACCEPT, bert=LATER)
            self.assertTrue(said.startswith("450 4.2.0"), said)
            self.assertNotIn("anna", said)
            self.assertEqual(bench.released, [])
            bench.clock.advance(240)
            bench = self.again(bench)
        self.begin(bench, "all")
        self.assertEqual(codes(self.data(bench, anna=ACCEPT, bert=LATER)), ["250"])
        self.assertEqual(bench.released, ["anna@example.net", "bert@example.net:filed"])

    def test_laterEach(self) -> None:
        """It is counted for each message; and no answer of a day ago counts."""
        bench = self.bench("anna", "bert", more={"later": 1})
        other = ("Message-ID: <other@client.example>", *TEXT[1:])
        for text, expected, seconds in (
            (TEXT, "450", 3600),
            (other, "450", 3600),
            (TEXT, "250", 90000),
            (TEXT, "450", 0),
        ):
            self.begin(bench, "all")
            self.assertEqual(codes(self.data(bench, text, anna=ACCEPT, bert=LATER)), [expected])
            bench.lose()
            bench.clock.advance(seconds)
            bench = self.again(bench)

    def test_laterTwice(self) -> None:
        """An alias that is named twice has one answer, and is delayed as often as if once."""
        bench = self.bench("anna", "bert", more={"later": 2})
        bench.content.verdicts.update({"anna@example.net": ACCEPT, "bert@example.net": LATER})
        found = []
        for _ in range(3):
            self.begin(bench, "all", "all", mail=" PRDR")
            found.append(codes(self.data(bench)))
        self.assertEqual(found, [["450"], ["450"], ["250"]])

    def test_laterElsewhere(self) -> None:
        """Delays are counted by all processes together: each attempt meets another one."""
        cluster = Cluster(2, kinds=("alias", "mixed"))
        found = []
        for number in range(4):
            notes = cluster.notes[number % 2]
            bench = self.bench("anna", "bert", notes=notes, clock=cluster.clock)
            self.begin(bench, "all")
            said = self.data(bench, anna=ACCEPT, bert=LATER)
            cluster.settle()
            found += codes(said + bench.take().decode().splitlines())
            bench.lose()
        self.assertEqual(found, ["450", "450", "450", "250"])

    def test_notNoted(self) -> None:
        """What cannot be noted is no delay that counts: refused for now, in time."""
        bench = self.bench("anna", "bert")
        self.patch(bench.notes, "put", lambda *asked: Deferred())
        self.begin(bench, "all")
        self.assertEqual(self.data(bench, anna=ACCEPT, bert=LATER), [])
        bench.clock.advance(NOTE_SECONDS)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["450"])
        self.assertEqual(len(self.flushLoggedErrors(TimeoutError)), 1)

    def again(self, bench: Bench) -> Bench:
        """
        A new session, which finds what the last one noted.
        """
        found = Bench(notes=bench.notes, clock=bench.clock)
        found.envelope.verdicts = bench.envelope.verdicts
        return found

    def test_envelope(self) -> None:
        """
        Where one accepts in the envelope, the others are judged all the same; who refuses
        there has no copy unless a rule gave it a policy.
        """
        bench = self.bench("postmaster", "anna", "old-user")
        self.assertEqual(codes(self.begin(bench, "all")), ["250"])
        self.assertEqual(codes(self.data(bench, anna=NO)), ["250"])
        self.assertEqual(bench.released, ["postmaster@example.net", "anna@example.net:filed"])

    def test_refusedInTheEnvelope(self) -> None:
        """An alias whose members are all refused, or that has none, is refused at once."""
        bench = self.bench("old-user")
        (said,) = self.begin(bench, "all")
        self.assertTrue(said.startswith("550 5.1.1 <all@example.net> refused by all"), said)
        bench = self.bench()
        self.assertTrue(self.begin(bench, "all")[0].startswith("550 5.1.1 <all@example.net> no"))

    def test_allAccept(self) -> None:
        """Nothing is judged where all accept in the envelope."""
        bench = self.bench("postmaster", "accept")
        bench.envelope.verdicts["accept@example.net"] = "accept"
        self.begin(bench, "all")
        self.assertEqual(codes(self.data(bench)), ["250"])
        self.assertEqual(bench.released, ["postmaster@example.net", "accept@example.net"])
        self.assertEqual(bench.content.asked, [])

    def test_twoNotices(self) -> None:
        """
        The one copy keeps the sender's wish to be told of a failure, whichever of the
        addresses that lead to it has that wish.
        """
        bench = self.bench("anna")
        bench.envelope.verdicts["both@example.net"] = expand("anna", "bert")
        bench.content.verdicts.update({"anna@example.net": ACCEPT, "bert@example.net": ACCEPT})
        bench.say("EHLO c", "MAIL FROM:<a@b.example> PRDR")
        for name, notify in (("anna", "NEVER"), ("all", "NEVER"), ("both", "FAILURE")):
            bench.say(f"RCPT TO:<{name}@example.net> NOTIFY={notify}")
        self.data(bench)
        found = [one.recipient for one in bench.works[0].addressees]
        told = [(str(one), str(one.alias), one.notify) for one in found]
        both, failure = "both@example.net", {"FAILURE"}
        self.assertEqual(
            told, [("anna@example.net", both, failure), ("bert@example.net", both, failure)]
        )

    def test_manyMembers(self) -> None:
        """
        However often a sender names aliases, the members that one transaction asks about
        are bounded; the next transaction begins anew.
        """
        bench = self.bench("anna", "both")
        bench.envelope.verdicts["both@example.net"] = expand("bert", "carl", "dora")
        self.patch(envelope, "MAX_MEMBERS", 8)
        said = self.begin(bench, "all", "all", "all", "anna")
        self.assertEqual(codes(said), ["250", "250", "452", "452"])
        bench.say("RSET")
        self.assertEqual(codes(self.begin(bench, "all")), ["250"])

    def test_manyMembersAtOnce(self) -> None:
        """They are also where all aliases were named before the first one is known."""
        bench = self.bench(mixed=Mixed.FILE)
        bench.envelope.verdicts.update(
            {"all@example.net": "pending", "both@example.net": "pending"}
        )
        self.patch(envelope, "MAX_MEMBERS", 1)
        bench.say("EHLO c", "MAIL FROM:<a@b.example>")
        bench.send(b"RCPT TO:<all@example.net>\r\nRCPT TO:<both@example.net>\r\n")
        for name in ("all", "both"):
            bench.envelope.decide(f"{name}@example.net", expand("anna"))
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250", "452"])

    def test_twoWays(self) -> None:
        """Whom two aliases have in common, and the sender has named too, gets one copy."""
        bench = self.bench("anna", "bert")
        bench.envelope.verdicts["both@example.net"] = expand("anna", "all")
        self.begin(bench, "all", "anna", "both")
        bench.content.cohorts = dict.fromkeys(["anna@example.net", "bert@example.net"], "same")
        bench.say("RSET")
        self.begin(bench, "all", "anna", "both")
        bench.say("DATA")
        bench.say(*TEXT)
        bench.content.decide("anna@example.net", ACCEPT)
        bench.turns()
        self.assertEqual(sorted(bench.released), ["anna@example.net", "bert@example.net"])
        (work,) = bench.works
        direct = {str(one): one.recipient.alias for one in work.addressees}
        self.assertIsNone(direct["anna@example.net"])
        self.assertEqual(len({one.seq for one in work.addressees}), 2)

    def test_mixed(self) -> None:
        """
        An alias differs from others as any recipient does: they come apart, and each has
        an exact answer.
        """
        bench = self.bench("anna", "bert")
        self.assertEqual(codes(self.begin(bench, "all", "carl")), ["250", "250"])
        first = self.data(bench, anna=ACCEPT, bert=ACCEPT, carl=NO)
        self.assertEqual((codes(first), bench.released), (["451"], []))
        self.assertNotIn("anna@", "".join(first))
        self.assertEqual(codes(self.begin(bench, "all", "carl")), ["250", "452"])
        self.assertEqual(codes(self.data(bench, anna=ACCEPT, bert=ACCEPT)), ["250"])
        self.assertEqual(bench.released, ["anna@example.net", "bert@example.net"])

    def test_filed(self) -> None:
        """Where mixed mail is filed, so is that of an alias that refuses: for its members."""
        bench = self.bench("anna", "bert", mixed=Mixed.FILE)
        self.begin(bench, "all", "carl")
        self.assertEqual(codes(self.data(bench, anna=NO, bert=NO, carl=ACCEPT)), ["250"])
        filed = ["anna@example.net:filed", "bert@example.net:filed"]
        self.assertEqual(bench.released, ["carl@example.net", *filed])

    def test_filedOnce(self) -> None:
        """A refuser that the sender has named, too, has one filed copy."""
        bench = self.bench("anna", "bert", mixed=Mixed.FILE)
        for name in ("anna", "bert"):
            bench.content.verdicts[f"{name}@example.net"] = NO if name == "bert" else ACCEPT
        self.begin(bench, "all", "bert")
        self.assertEqual(codes(self.data(bench)), ["250"])
        self.assertEqual(sorted(bench.released), ["anna@example.net", "bert@example.net:filed"])

    def test_filedWhereAllRefuse(self) -> None:
        """
        An alias that drops refusers while others accept does not lose a message which
        no member has, and which the sender was told is taken.
        """
        bench = self.bench("anna", "bert", mixed=Mixed.FILE, more={"refusers": "drop"})
        self.begin(bench, "all", "carl")
        self.assertEqual(codes(self.data(bench, anna=NO, bert=NO, carl=ACCEPT)), ["250"])
        filed = ["anna@example.net:filed", "bert@example.net:filed"]
        self.assertEqual(bench.released, ["carl@example.net", *filed])

    def test_filedAsNamed(self) -> None:
        """What is filed for a member keeps all of its route but the delivery."""
        bench = self.bench("anna", "bert")
        said, route = bench.envelope.verdict, Route("strict", "box", subaddress="+")
        judged = {"bert": Defer(route)}
        self.patch(bench.envelope, "verdict", lambda name: judged.get(str(name)) or said(name))
        self.begin(bench, "all")
        self.data(bench, anna=ACCEPT, bert=NO)
        found = bench.works[0].addressees[1].recipient.route
        assert found is not None
        self.assertEqual((found.policy, found.subaddress), ("strict", "+"))

    def test_notified(self) -> None:
        """Where the sender is told, it is told of the alias."""
        bench = self.bench("anna", "bert", mixed=Mixed.NOTIFY)
        bench.say("EHLO c")
        bench.say(
            "MAIL FROM:<aligned@b.example>",
            "RCPT TO:<all@example.net>",
            "RCPT TO:<carl@example.net>",
        )
        self.assertEqual(codes(self.data(bench, anna=NO, bert=NO, carl=ACCEPT)), ["250"])
        self.assertEqual(bench.released, ["carl@example.net", "all@example.net:notified"])

    def test_success(self) -> None:
        """NOTIFY=SUCCESS: the sender is told that the alias was expanded, and no more."""
        bench = self.bench("anna", "bert")
        self.begin(bench, "all", rcpt=" NOTIFY=SUCCESS,FAILURE")
        self.data(bench, anna=ACCEPT, bert=ACCEPT)
        *members, told = bench.works[0].addressees
        self.assertEqual([one.recipient.notify for one in members], [{"FAILURE"}] * 2)
        self.assertEqual(str(told), "all@example.net")
        assert told.refusal is not None
        self.assertEqual(told.refusal.code, 250)

    def test_log(self) -> None:
        """Each member has its line, with the alias; no line of the alias has a member's words."""
        bench = self.bench("postmaster", "anna", "old-user")
        with capturedLogs() as events:
            self.begin(bench, "all")
            self.data(bench, anna=NO)
        told = [one for one in events if one.get("event") == "recipient"]
        found = [(one["recipient"], one["alias"], one["stage"], one["reply"][:3]) for one in told]
        named = "all@example.net"
        self.assertEqual(
            found,
            [
                ("postmaster@example.net", named, "envelope", "250"),
                ("old-user@example.net", named, "envelope", "550"),
                ("anna@example.net", named, "content", "550"),
                (named, None, "content", "250"),
            ],
        )

    def test_logOfRefused(self) -> None:
        """The log says how the members of an alias refuse that is refused at RCPT TO."""
        bench = self.bench("old-user")
        with capturedLogs() as events:
            self.begin(bench, "all")
        told = [one for one in events if one.get("event") == "recipient"]
        found = [(one["recipient"], one["alias"]) for one in told]
        named = "all@example.net"
        self.assertEqual(found, [("old-user@example.net", named), (named, None)])

    def test_late(self) -> None:
        """A member whose stage does not answer in time refuses for now."""
        bench = self.bench("anna", "bert")
        self.begin(bench, "all")
        bench.say("DATA")
        bench.say(*TEXT)
        bench.content.decide("anna@example.net", ACCEPT)
        bench.clock.advance(bench.settings.reply_deadline)
        (said,) = bench.take().decode().splitlines()
        self.assertTrue(said.startswith("451 4.3.0"), said)
        self.assertEqual(bench.released, [])

    def test_expandedLate(self) -> None:
        """An alias waits for its members in the envelope no longer than others do."""
        bench = self.bench("anna", "bert")
        bench.envelope.verdicts["bert@example.net"] = "pending"
        bench.say("EHLO c", "MAIL FROM:<a@b.example>")
        self.assertEqual(bench.say("RCPT TO:<all@example.net>"), [])
        bench.clock.advance(bench.settings.limits.envelope_timeout)
        self.assertEqual(bench.envelope.cancelled, ["bert@example.net"])
        self.assertEqual(codes(bench.take().decode().splitlines()), ["451"])

    def test_gone(self) -> None:
        """A client that goes while its alias is expanded leaves nothing behind."""
        bench = self.bench("anna", "bert")
        bench.envelope.verdicts["bert@example.net"] = "pending"
        bench.say("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<all@example.net>")
        bench.lose()
        self.assertEqual(bench.envelope.cancelled, ["bert@example.net"])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_notDeliveredFirst(self) -> None:
        """Where delivery comes before the reply, a message to an alias is answered first."""
        attempted: list[Any] = []
        bench = self.bench("anna", backend={"attempt": lambda *asked: attempted.append(asked)})
        self.begin(bench, "all")
        self.assertEqual(codes(self.data(bench, anna=ACCEPT)), ["250"])
        self.assertEqual((bench.released, attempted), (["anna@example.net"], []))

    def test_lost(self) -> None:
        """A client that goes leaves nothing behind."""
        bench = self.bench("anna", "bert")
        self.begin(bench, "all")
        bench.say("DATA")
        bench.say(*TEXT)
        bench.content.decide("anna@example.net", ACCEPT)
        with capturedLogs() as events:
            bench.lose()
        self.assertEqual(bench.content.cancelled, ["bert@example.net"])
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        self.assertNotIn("recipient", [one.get("event") for one in events])
        bench = self.again(bench)
        self.begin(bench, "all")
        for number in range(3):  # it was not a delay
            self.assertEqual(codes(self.data(bench, anna=ACCEPT, bert=LATER)), ["450"], number)
            self.begin(bench, "all")

    def test_lostWhileNoting(self) -> None:
        """Nor does one that goes while a delay is being noted."""
        bench = self.bench("anna", "bert")
        self.patch(bench.notes, "put", lambda *asked: Deferred())
        self.begin(bench, "all")
        self.data(bench, anna=ACCEPT, bert=LATER)
        bench.lose()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_undeliverable(self) -> None:
        """A member whose delivery can never carry the message is one that refuses."""
        bench = self.bench("anna", "bert")
        bench.undeliverable["bert@example.net"] = Reply(552, "5.3.4", "too large for bert")
        self.begin(bench, "all")
        self.assertEqual(codes(self.data(bench, anna=ACCEPT)), ["250"])
        self.assertEqual(bench.released, ["anna@example.net", "bert@example.net:filed"])
        bench = self.bench("postmaster")
        bench.undeliverable["postmaster@example.net"] = Reply(552, "5.3.4", "too large")
        self.begin(bench, "all")
        (said,) = self.data(bench)
        self.assertTrue(said.startswith("552 5.3.4"), said)


class EachTests(_Tests):
    """
    Senders that get an answer for each recipient.
    """

    def test_prdr(self) -> None:
        """One answer for each address that was named."""
        bench = self.bench("anna", "bert")
        self.begin(bench, "all", "carl", "postmaster", mail=" PRDR")
        said = self.data(bench, anna=ACCEPT, bert=NO, carl=NO)
        self.assertEqual(codes(said), ["353", "250", "550", "250", "250"])
        self.assertIn("<all@example.net>", said[1])
        self.assertNotIn("bert", "".join(said))
        filed = "bert@example.net:filed"
        self.assertEqual(bench.released, ["postmaster@example.net", "anna@example.net", filed])

    def test_deferrals(self) -> None:
        """352 where none accepts at once; then its answer is in the block."""
        bench = self.bench("anna", "bert")
        self.assertEqual(codes(self.begin(bench, "all", "carl", mail=" DEFERRALS")), ["352", "352"])
        said = self.data(bench, anna=LATER, bert=NO, carl=ACCEPT)
        self.assertEqual(codes(said), ["353", "450", "250", "250"])

    def test_promised(self) -> None:
        """
        A 250 at RCPT TO is the alias' answer: it is not in the block; who refuses of its
        members, also for now, is filed, and the end waits for them.
        """
        bench = self.bench("postmaster", "anna", "bert")
        self.assertEqual(codes(self.begin(bench, "all", "carl", mail=" DEFERRALS")), ["250", "352"])
        self.assertEqual(codes(self.data(bench, carl=NO)), ["353", "550"])
        bench.content.decide("anna@example.net", NO)
        self.assertEqual(bench.take(), b"")
        bench.content.decide("bert@example.net", LATER)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250"])
        filed = ["anna@example.net:filed", "bert@example.net:filed"]
        self.assertEqual(bench.released, ["postmaster@example.net", *filed])

    def test_promisedAlone(self) -> None:
        """Without a 352 there is no 353, however long its members take (D-9)."""
        bench = self.bench("postmaster", "anna")
        self.begin(bench, "all", "postmaster", mail=" DEFERRALS")
        self.assertEqual(self.data(bench), [])
        bench.clock.advance(bench.settings.consolidation_window)
        self.assertEqual(bench.take(), b"")
        bench.content.decide("anna@example.net", NO)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250"])

    def test_promisedLate(self) -> None:
        """Who is late of a promised alias' members is a refuser; the listed come first."""
        bench = self.bench("postmaster", "anna")
        self.begin(bench, "all", "carl", "dora", mail=" DEFERRALS")
        self.assertEqual(codes(self.data(bench, carl=NO)), ["353", "550"])
        bench.clock.advance(bench.settings.reply_deadline)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["451"])
        self.assertEqual(bench.content.cancelled, ["dora@example.net"])
        bench.clock.advance(bench.settings.reply_deadline)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250"])
        self.assertEqual(bench.released, ["postmaster@example.net", "anna@example.net:filed"])

    def test_lmtp(self) -> None:
        """LMTP: one reply for each address that was named, no more."""
        bench = self.bench("anna", "bert", protocol="lmtp")
        self.begin(bench, "all", "carl")
        said = self.data(bench, anna=ACCEPT, bert=NO, carl=NO)
        self.assertEqual(codes(said), ["250", "550"])

    def test_exdata(self) -> None:
        """EXDATA: one line for each address that was named."""
        bench = self.bench("anna", "bert", exdata=("192.0.2.0/24",))
        self.begin(bench, "all", "carl")
        said = self.data(bench, anna=ACCEPT, bert=NO, carl=NO)
        self.assertEqual([line[4:7] for line in said], ["250", "550"])
        self.assertNotIn("bert", "".join(said))


#: What a person says: at RCPT TO, or after the data.
PEOPLE: dict[str, Any] = {
    "accepts": "accept",
    "refused": Reply(550, "5.1.1", "gone"),
    "busy": Reply(451, "4.2.1", "busy"),
    "yes": ACCEPT,
    "no": NO,
    "later": LATER,
}
NAMES = sorted(PEOPLE)
ALIASES = ["one", "two", "three", "four"]


def reachable(aliases: dict[str, list[str]], name: str) -> list[str]:
    """
    The people that an alias stands for, worked out in the plainest way.
    """
    seen, people, waiting = {name}, list[str](), [name]
    while waiting:
        for member in aliases[waiting.pop()]:
            if member in seen:
                continue
            seen.add(member)
            (waiting if member in aliases else people).append(member)
    return people


class PropertyTests(SynchronousTestCase):
    """
    Random aliases, with loops, of people of all kinds: the session says what the pure
    functions say, in every way of answering, and each mailbox has one copy.
    """

    @requirement("D-19")
    @given(
        st.fixed_dictionaries(
            {
                name: st.lists(
                    st.sampled_from([*(one for one in ALIASES if one != name), *NAMES]), max_size=4
                )
                for name in ALIASES
            }
        ),
        st.lists(st.sampled_from([*ALIASES, *NAMES]), min_size=1, max_size=4),
        st.sampled_from(list(Form)),
        st.integers(0, 1),
    )
    def test_any(
        self, aliases: dict[str, list[str]], named: list[str], form: Form, later: int
    ) -> None:
        named = named[:1] if form is Form.PLAIN else named
        protocol, exdata = ("lmtp" if form is Form.LMTP else "smtp"), form is Form.EXDATA
        bench = Bench(protocol=protocol, exdata=("192.0.2.0/24",) if exdata else ())
        for name, members in aliases.items():
            bench.envelope.verdicts[f"{name}@example.net"] = expand(*members, later=later)
        for name, verdict in PEOPLE.items():
            isKnown = isinstance(verdict, (str, Reply))
            (bench.envelope if isKnown else bench.content).verdicts[f"{name}@example.net"] = verdict
        word = f" {form.keyword}" if form in (Form.DEFERRALS, Form.PRDR) else ""
        bench.say("LHLO c" if form is Form.LMTP else "EHLO c")
        bench.say(f"MAIL FROM:<a@b.example>{word}")
        said = [bench.say(f"RCPT TO:<{name}@example.net>")[0] for name in named]
        people = {name: reachable(aliases, name) if name in aliases else [name] for name in named}
        self.assertEqual(codes(said), [rcpt(people[name], form) for name in named])
        letIn = [name for name in named if rcpt(people[name], form) in ("250", "352")]
        if not letIn:
            return
        bench.say("DATA")
        replies = bench.say(*TEXT)
        block = self.block(form, letIn, people, aliases, later)
        wanted = [str(reply.code) for reply in block.take()]
        if block.needsCommit:
            block.committed()
            wanted += [str(reply.code) for reply in block.take()]
        self.assertEqual(codes([one for one in replies if one[3] == " "]), wanted)
        self.copies(bench, [letIn[index] for index in block.accepted()], people, aliases)
        for name in set(NAMES) - set(named):
            self.assertNotIn(f"<{name}@", "".join(said + replies))

    def block(
        self,
        form: Form,
        letIn: list[str],
        people: dict[str, list[str]],
        aliases: dict[str, list[str]],
        later: int,
    ) -> Block:
        """
        The answers as the pure functions have them.
        """
        candidates, verdicts = [], []
        for number, name in enumerate(letIn):
            code = rcpt(people[name], form)
            reply = R352_DEFERRED if code == "352" else R250_RECIPIENT
            isPromised = form is Form.DEFERRALS and code == "250"
            recipient = makeRecipient(f"{name}@example.net")
            deferred = not isPromised and people[name] != ["accepts"]
            candidates.append(Candidate(recipient, reply, deferred, number))
            said = [content(one) for one in people[name]]
            isAlias = name in aliases
            verdicts.append(answer(said, later, 0, isPromised) if isAlias else said[0])
        block = Block(form, candidates, "")
        for index, verdict in enumerate(verdicts):
            block.verdict(index, verdict)
        return block

    def copies(
        self,
        bench: Bench,
        accepted: list[str],
        people: dict[str, list[str]],
        aliases: dict[str, list[str]],
    ) -> None:
        """
        Who has a copy: each of those that accept, once; of an alias' refusers those that
        have a policy.
        """
        found = [member for name in accepted for member in people[name]]
        wanted = {f"{one}@example.net" for one in found if one in ("accepts", "yes")}
        wanted |= {f"{one}@example.net:filed" for one in found if one in ("no", "later")}
        self.assertEqual(sorted(bench.released), sorted(wanted))


def rcpt(people: list[str], form: Form) -> str:
    """
    What RCPT TO is answered for those whom an address stands for.
    """
    if "accepts" in people:
        return "250"
    if {"yes", "no", "later"} & set(people):
        return "352" if form is Form.DEFERRALS else "250"
    return "451" if "busy" in people else "550"


def content(name: str) -> ContentVerdict:
    said = PEOPLE[name]
    if isinstance(said, Reply):
        return Refuse(said)
    return ACCEPT if said == "accept" else said
