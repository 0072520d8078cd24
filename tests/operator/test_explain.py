"""
C{deferrals explain}: five mails of five kinds, found by each key.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import LogPublisher, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.model.reply import Reply
from deferrals.model.verdict import Refuse
from deferrals.operator.explain import Id, Span, Story, Word, parseKey, stories
from deferrals.operator.logs import LogEntry, Logs
from tests.harness import Bench

NOW = datetime.datetime(2026, 11, 29, 16, 0).timestamp()


class KeyTests(SynchronousTestCase):
    """
    L{parseKey}.
    """

    def test_kinds(self) -> None:
        """An id, times of all forms, and whatever else there is."""
        hour, day = 3600.0, 86400.0
        midnight = NOW - 16 * hour
        forever = float("inf")
        for text, key in (
            ("1M84B9SJQ005Q", Id("1M84B9SJQ005Q")),
            ("1m84b9sjq005q", Id("1M84B9SJQ005Q")),
            ("2h", Span(NOW - 2 * hour, forever)),
            ("1h 30m", Span(NOW - 1.5 * hour, forever)),
            ("2026-11-29", Span(midnight, midnight + day)),
            ("15:00..15:30", Span(NOW - hour, NOW - hour / 2)),
            ("9:00..", Span(NOW - 7 * hour, forever)),
            ("..2026-11-29T15:00", Span(-forever, NOW - hour)),
            ("a@b.example", Word("a@b.example")),
            ("<a..b@c.example>", Word("<a..b@c.example>")),
            ("192.0.2.1", Word("192.0.2.1")),
        ):
            self.assertEqual(parseKey(text, NOW), key, text)

    def test_whole(self) -> None:
        """A word is found as a whole: an address, or the domain of one; no part of either."""
        entry = LogEntry(NOW, "[deferrals] 127.0.0.1 from=<anna@client.example> helo=mx.test")
        for text in ("anna@client.example", "client.example", "@client.example", "mx.test"):
            self.assertTrue(Word(text).matches(entry), text)
        for text in ("client", "example", "nna@client.example", "ient.example", "27.0.0.1"):
            self.assertFalse(Word(text).matches(entry), text)

    def test_wrong(self) -> None:
        """Nothing, and what is half a time."""
        for text in ("", "<>", "25:00..26:00", "yesterday.."):
            self.assertRaises(ValueError, parseKey, text, NOW)


def unknown(number: str) -> None:
    """
    What a spool says that knows of no message.
    """


class FiveTests(SynchronousTestCase):
    """
    Five mails of five kinds in one log.
    """

    observer: Callable[..., Any] = PlainObserver

    def setUp(self) -> None:
        self.path = self.mktemp()
        with open(self.path, "w") as file:
            observer = self.observer(file, lambda turn: turn())
            publisher = LogPublisher(observer)
            globalLogPublisher.addObserver(publisher)
            try:
                self.send()
            finally:
                globalLogPublisher.removeObserver(publisher)

    def send(self) -> None:
        """
        Accepted; refused in the envelope; refused on content; aborted; too large.
        And a session without mail.
        """
        bench = Bench(limits={"message_size": 2000})
        bench.content.verdicts["fighter@example.net"] = Refuse(
            Reply(550, "5.7.1", "spam"), why="rspamd: score 8.2, refuse_score 5"
        )
        bench.say("EHLO good.example", "MAIL FROM:<one@good.example>")
        bench.say("RCPT TO:<postmaster@example.net>", "DATA", "Message-ID: <1@good>", "", "x", ".")
        bench.say("MAIL FROM:<two@good.example>", "RCPT TO:<old-user@example.net>", "RSET")
        bench.say("MAIL FROM:<three@good.example>", "RCPT TO:<fighter@example.net>")
        self.refusal = bench.say("DATA", "Message-ID: <3@good>", "", "x", ".")[-1]
        bench.say("MAIL FROM:<four@good.example>", "RCPT TO:<postmaster@example.net>", "RSET")
        bench.say("MAIL FROM:<five@good.example>", "RCPT TO:<postmaster@example.net>")
        bench.say("DATA", "Message-ID: <5@good>", "")
        bench.say("x" * 900, "y" * 900, "z" * 900, ".")
        bench.lose()
        other = Bench()
        other.say("EHLO scanner.example", "VRFY root")
        other.lose()

    def find(self, *keys: str) -> list[Story]:
        found = [parseKey(key, NOW) for key in keys]
        return list(stories(found, Logs([self.path]), unknown))

    def senders(self, *keys: str) -> list[str]:
        """
        @return: who has sent what was found, each from its transaction's line.
        """
        found = ["\n".join(text for _, text in story.lines) for story in self.find(*keys)]
        return [text.partition(" from=<")[2].partition("@")[0] for text in found]

    def test_each(self) -> None:
        """Each is found by its sender, its recipient, its Message-ID and its id."""
        for name in ("one", "two", "three", "four", "five"):
            self.assertEqual(self.senders(f"{name}@good.example"), [name])
        self.assertEqual(self.senders("old-user@example.net"), ["two"])
        self.assertEqual(self.senders("FIGHTER@example.net"), ["three"])
        self.assertEqual(self.senders("<1@good>"), ["one"])
        self.assertEqual(self.senders("3@good"), ["three"])
        self.assertEqual(self.senders("<5@good>"), ["five"])
        self.assertEqual(self.senders("postmaster@example.net", "<5@good>"), ["five"])
        number = self.refusal.rpartition("(id ")[2].rstrip(")")
        self.assertEqual(self.senders(number), ["three"])
        names = ["one", "two", "three", "four", "five"]
        self.assertEqual(self.senders("@good.example", "example.net"), names)
        self.assertEqual(self.senders("ne@good.example"), [])

    def test_time(self) -> None:
        """All are found by the time, and none outside of it; also the session without mail."""
        moment = datetime.datetime.now()
        begin, end = (
            (moment + datetime.timedelta(minutes=minutes)).isoformat() for minutes in (-5, 5)
        )
        names = ["", "one", "two", "three", "four", "five"]
        self.assertEqual(self.senders(f"{begin}..{end}"), names)
        self.assertEqual(self.senders(f"{begin}..{end}", "192.0.2.1"), names)
        self.assertEqual(self.senders(f"..{begin}"), [])

    def test_why(self) -> None:
        """The story says the rule and the limit that decided."""
        (story,) = self.find("fighter@example.net")
        text = "\n".join(text for _, text in story.lines)
        self.assertIn("550 5.7.1 spam [rspamd: score 8.2, refuse_score 5]", text)

    def test_session(self) -> None:
        """A session without mail is found by the client's name."""
        (story,) = self.find("scanner.example")
        self.assertEqual((story.id, len(story.lines)), ("", 1))
        self.assertIn("without mail", story.lines[0][1])

    def test_oneForm(self) -> None:
        """Times have one form, with their offset."""
        for story in self.find("192.0.2.1"):
            for when, _ in story.lines:
                self.assertRegex(when, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d$")


class JSONTests(FiveTests):
    """
    The same from a JSON log.
    """

    observer = JSONObserver


class WorkerTests(FiveTests):
    """
    The same from the log of one of several processes.
    """

    observer = partial(PlainObserver, worker=2)


class SpoolTests(SynchronousTestCase):
    """
    What the spool knows.
    """

    def test_history(self) -> None:
        """Attempts that no log has come from the spool's history; in order of time."""
        number = "1M84B9SJQ005Q"
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(f"2026-11-23T16:00:00+00:00 {number} to=<a@b.c> content\n")
        entry = {"seq": 0, "time": 4e9, "event": "retry", "reply": "451 no", "host": "mx"}
        shown = {"id": number, "history": [entry]}
        keys = [Id(number)]
        (story,) = stories(keys, Logs([path]), lambda _: shown)
        texts = [text for _, text in story.lines]
        self.assertEqual(
            texts,
            [f"{number} to=<a@b.c> content", f"[spool] {number} recipient 0: retry mx 451 no"],
        )
        with open(path, "a") as file:
            file.write(f"2026-11-23T16:00:01+00:00 {number} to=<a@b.c> retry by x\n")
        (story,) = stories(keys, Logs([path]), lambda _: shown)
        self.assertEqual(len(story.lines), 2)

    def test_nothing(self) -> None:
        """What neither knows is no story."""
        path = os.devnull
        self.assertEqual(list(stories([Id("1M84B9SJQ005Q")], Logs([path]), unknown)), [])
