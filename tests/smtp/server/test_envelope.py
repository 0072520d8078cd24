"""
MAIL and RCPT, and the transaction that they make.
"""

from __future__ import annotations

import base64
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.mixed import Mixed
from deferrals.model.verdict import Accept, Route
from tests.harness import GREETING, Bench, gate
from tests.requirements import requirement

MAIL = "MAIL FROM:<a@b.example>"
BODY = ("DATA", "text", ".")


def codes(said: list[str]) -> list[str]:
    """
    @return: the codes of replies.
    """
    return [line[:3] for line in said]


def rcpt(*locals: str) -> list[str]:
    """
    @return: the commands that name these recipients.
    """
    return [f"RCPT TO:<{local}@example.net>" for local in locals]


class MailTests(SynchronousTestCase):
    """
    MAIL FROM.
    """

    def test_tooLarge(self) -> None:
        """A message that says that it is too large is not begun (RFC 1870)."""
        bench = Bench({"message_size": 1000})
        bench.say(*GREETING)
        (said,) = bench.say(f"{MAIL} SIZE=1001")
        self.assertEqual(said[:9], "552 5.3.4")
        self.assertEqual(codes(bench.say(*rcpt("postmaster"))), ["503"])
        self.assertEqual(codes(bench.say(f"{MAIL} SIZE=1000")), ["250"])

    def test_transactions(self) -> None:
        """One transaction more than a connection may have: 421, and the end (RFC 9422)."""
        bench = Bench({"transactions": 2})
        bench.say(*GREETING, MAIL, "RSET", MAIL, "RSET")
        self.assertFalse(bench.closed)
        self.assertEqual(codes(bench.say(MAIL)), ["421"])
        self.assertTrue(bench.closed)

    def test_auth(self) -> None:
        """AUTH= is believed only of the user as whom the client came (RFC 4954 section 5)."""
        ann = base64.b64encode(b"\0ann@b.example\0secret").decode()
        for said, kept in (
            ("", None),
            (" AUTH=<>", "<>"),
            (" AUTH=ann@b.example", "ann@b.example"),
            (" AUTH=bob@b.example", "<>"),
        ):
            bench = Bench(
                backend={"authenticator": gate(**{"ann@b.example": b"secret"})},
                auth="offered",
                auth_without_tls=True,
            )
            bench.say(*GREETING, f"AUTH PLAIN {ann}")
            bench.say(MAIL + said, *rcpt("postmaster"), *BODY)
            self.assertEqual([work.envelope.parameters.auth for work in bench.works], [kept], said)

    def test_idle(self) -> None:
        """Without a transaction a client may not stay for ever, whatever it says."""
        bench = Bench({"idle_timeout": 100, "command_timeout": 30})
        bench.say(*GREETING)
        for _ in range(4):
            bench.clock.advance(20)
            self.assertEqual(codes(bench.say("NOOP")), ["250"])
        bench.clock.advance(20)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["421"])

    def test_notIdle(self) -> None:
        """A transaction that goes on is not idle, and neither is what follows it at once."""
        bench = Bench({"idle_timeout": 100, "command_timeout": 90}, mixed=Mixed.STRICTEST)
        bench.say(*GREETING, MAIL)
        for number in range(3):
            bench.clock.advance(80)
            self.assertEqual(codes(bench.say(*rcpt(f"postmaster+{number}"))), ["250"])
        bench.say("RSET")
        bench.clock.advance(80)
        self.assertEqual(codes(bench.say(MAIL)), ["250"])


class RcptTests(SynchronousTestCase):
    """
    RCPT TO.
    """

    def start(self, *pending: str, limits: dict[str, Any] | None = None, **settings: Any) -> Bench:
        """
        @return: a session with a sender; these recipients' verdicts are waited for.
        """
        bench = Bench(limits, **settings)
        for local in pending:
            bench.envelope.verdicts[f"{local}@example.net"] = "pending"
        bench.say(*GREETING, MAIL)
        return bench

    def test_noHash(self) -> None:
        """A route that a stage has made of what has no hash refuses for now, and no more."""
        bench = self.start()
        route = Route("open", "box", (("score", []),))  # type: ignore[arg-type]
        bench.envelope.verdict = lambda verdict: Accept(route=route)  # type: ignore[method-assign]
        self.assertEqual(codes(bench.say(*rcpt("a"))), ["451"])
        self.assertEqual(codes(bench.say("NOOP")), ["250"])
        self.flushLoggedErrors()

    def test_sideBySide(self) -> None:
        """Recipients in a row are judged side by side, and answered in order."""
        bench = self.start("one", "two", mixed=Mixed.STRICTEST)
        self.assertEqual(bench.say(*rcpt("one", "two", "old-user")), [])
        self.assertEqual(len(bench.envelope.pending), 2)
        bench.envelope.decide("two@example.net", "old-user")
        self.assertEqual(bench.take(), b"")
        bench.envelope.decide("one@example.net", "accept")
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250", "550", "550"])

    def test_late(self) -> None:
        """A stage that takes too long is cancelled: 451 for its recipient, and for no other one."""
        bench = self.start("slow", limits={"envelope_timeout": 7})
        bench.say(*rcpt("slow", "postmaster"))
        bench.clock.advance(6)
        self.assertEqual(bench.take(), b"")
        bench.clock.advance(1)
        self.assertEqual(codes(bench.take().decode().splitlines()), ["451", "250"])
        self.assertEqual(bench.envelope.cancelled, ["slow@example.net"])

    def test_notBefore(self) -> None:
        """What a stage says of a recipient whose transaction is gone goes nowhere."""
        bench = self.start("slow")
        bench.say(*rcpt("slow"), "RSET", MAIL)
        bench.envelope.decide("slow@example.net", "accept")
        self.assertEqual(codes(bench.take().decode().splitlines()), ["250"] * 3)
        self.assertEqual(codes(bench.say("DATA")), ["503"])

    def test_failed(self) -> None:
        """A stage that raises, or answers what is no verdict: 451, and the log says why."""
        for answer in (RuntimeError("broken"), Accept(), None, "yes"):
            bench = self.start()
            bench.envelope.verdict = lambda _, answer=answer: raised(answer)  # type: ignore[method-assign,misc]
            with capturedLogs() as events:
                said = bench.say(*rcpt("one"))
            self.assertEqual(codes(said), ["451"], answer)
            errors = [formatEvent(one) for one in events if "failed" in one["log_format"]]
            self.assertEqual(len(errors), 1)
            self.assertIn("<one@example.net>", errors[0])
            self.flushLoggedErrors()

    @requirement("P-13")
    def test_fewer(self) -> None:
        """Under an extension the limit is its own."""
        for parameters, wanted in (("", ["250", "250", "452"]), (" PRDR", ["250", "452", "452"])):
            bench = Bench({"recipients": 2, "extension_recipients": 1}, mixed=Mixed.STRICTEST)
            bench.say(*GREETING, MAIL + parameters)
            said = bench.say(*rcpt("postmaster", "postmaster+b", "postmaster+c"))
            self.assertEqual(codes(said), wanted)

    def test_log(self) -> None:
        """Each recipient has one verdict in the log: of the envelope, or of the content."""
        bench = self.start()
        with capturedLogs() as events:
            bench.say(*rcpt("old-user", "deferred"), "DATA", "text", ".")
            bench.content.decide("deferred@example.net", Accept())
        found = [
            (one["recipient"], one["stage"]) for one in events if one.get("event") == "recipient"
        ]
        self.assertEqual(
            found, [("old-user@example.net", "envelope"), ("deferred@example.net", "content")]
        )


class SplitTests(SynchronousTestCase):
    """
    A transaction that is split among cohorts.
    """

    def test_largest(self) -> None:
        """Of recipients that come in one piece, the largest cohort stays."""
        bench = Bench(mixed=Mixed.SPLIT)
        bench.content.cohorts = {f"{local}@example.net": "many" for local in ("b", "c")}
        bench.say(*GREETING, MAIL)
        said = bench.say(*rcpt("a", "b", "c"))
        self.assertEqual(codes(said), ["452", "250", "250"])
        self.assertEqual(bench.status.counted("mixed", "recipients sent away"), 1)

    def test_first(self) -> None:
        """Of recipients that come one by one, the first one's cohort stays."""
        bench = Bench(mixed=Mixed.SPLIT)
        bench.content.cohorts = {f"{local}@example.net": "many" for local in ("b", "c")}
        bench.say(*GREETING, MAIL)
        said = [bench.say(line)[0] for line in rcpt("a", "b", "c")]
        self.assertEqual(codes(said), ["250", "452", "452"])

    def test_refusedDoNotCount(self) -> None:
        """Recipients that are refused have no cohort that could be the largest."""
        bench = Bench(mixed=Mixed.SPLIT)
        bench.content.cohorts = {"b@example.net": "b"}
        bench.say(*GREETING, MAIL)
        said = bench.say(*rcpt("old-user", "old-user", "b"))
        self.assertEqual(codes(said), ["550", "550", "250"])


class HonestTests(SynchronousTestCase):
    """
    Refusals that happen to honest clients.
    """

    def test_honest(self) -> None:
        """A wrong recipient beside a right one is no error of the client's."""
        bench = Bench({"errors": 2}, mixed=Mixed.STRICTEST)
        good = rcpt(*(f"postmaster+{number}" for number in range(6)))
        bench.say(*GREETING, MAIL, *good)
        said = bench.say(*rcpt(*["old-user"] * 6))
        self.assertEqual(codes(said), ["550"] * 6)
        self.assertFalse(bench.closed)

    def test_guessing(self) -> None:
        """More wrong recipients than right ones are errors: some are pardoned, not all."""
        bench = Bench({"errors": 2}, mixed=Mixed.STRICTEST)
        bench.say(*GREETING, MAIL, *rcpt("postmaster"))
        said = codes(bench.say(*rcpt(*["old-user"] * 9)))
        self.assertEqual(said[-1], "421")
        self.assertTrue(bench.closed)

    def test_onlyWrong(self) -> None:
        """Without one right recipient, each wrong one is an error."""
        bench = Bench({"errors": 2})
        bench.say(*GREETING, MAIL)
        said = codes(bench.say(*rcpt(*["old-user"] * 5)))
        self.assertEqual(said[-1], "421")
        self.assertLessEqual(said.count("550"), 2)


def raised(answer: Any) -> Any:
    """
    @return: the answer, unless it is an exception.
    """
    if isinstance(answer, Exception):
        raise answer
    return answer
