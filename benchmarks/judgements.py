"""
What judging costs: judgements, scans and milliseconds against the number of
recipients and of cohorts, beside Exim with C{acl_smtp_data_prdr}, for the same
messages, with the same spamd, in the same run.

    python benchmarks/judgements.py [--runs 7]

Needs what the integration tests need (root, Exim, spamd).  Prints Markdown.

Every recipient has a threshold.  Recipients with the same one are a cohort;
they are interleaved.  First with one rule set for everybody, then with one
SpamAssassin user for each cohort.

I{Judgements}: here, the cohorts that the log names; in Exim, the runs of the
ACL, which writes a line for each.  I{Scans}: results in spamd's log.
I{Milliseconds}: from the end of the data to the last reply, the median; both
servers have written the message durably by then.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import attrs

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.integration.daemons import Exim
from tests.integration.scanners import Spamd
from tests.integration.support import Dialogue, IntegrationCase, Server, message, until

RECIPIENTS = (1, 10, 100, 1000)
COHORTS = (1, 3, 10)

#: The message scores 5.0: the first cohort of several refuses.
THRESHOLDS = (4, *range(6, 15))

CONFIG = """
hostname = "mx.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[deliveries.hole]
use = "discard"

[policies.spam]
content = [ {{ use = "spamassassin", socket = "{spamd}", concurrency = 4 }} ]

[[recipients]]
match = "*@example.net"
policy = "spam"
deliver = "hole"
check = [ {{ use = "users", sqlite = "users.db", cache = 3600 }} ]
"""

EXIM_MAIN = """
spamd_address = 127.0.0.1 {port}
acl_smtp_data = acl_data
"""

EXIM_TEST = """
acl_data:
  deny condition = ${{if ={{$recipients_count}}{{1}}}}
    acl = acl_spam
  accept
acl_prdr:
  deny acl = acl_spam
  accept
acl_spam:
  warn logwrite = judged
    set acl_m_rcpt = ${{if def:local_part{{$local_part}}{{${{local_part:$recipients}}}}}}
    set acl_m_cohort = ${{sg{{$acl_m_rcpt}}{{-.*}}{{}}}}
  accept spam = {user}:true
    set acl_m_limit = ${{lookup{{$acl_m_cohort}}lsearch{{{directory}/limits}}}}
    condition = ${{if >={{$spam_score_int}}{{$acl_m_limit}}}}
  deny
"""


class Bench(IntegrationCase):
    """
    Keeps processes until it is cleaned up.
    """

    def runTest(self) -> None:
        """
        Nothing: it is no test.
        """


class BenchExim(Exim):
    """
    Exim with thresholds per recipient.
    """

    def __init__(self, case: IntegrationCase, spamd: Spamd, user: str) -> None:
        self._user = user
        super().__init__(case, main=EXIM_MAIN.format(port=spamd.port))
        self._rewrite()
        argv = [self.path, "-bdf", "-C", self.config]
        case.daemon(argv, self.directory, lambda: connects(self.port), "exim")

    def _rewrite(self) -> None:
        with open(os.path.join(self.directory, "limits"), "w", encoding="utf-8") as file:
            for cohort, threshold in enumerate(THRESHOLDS):
                file.write(f"c{cohort}: {threshold * 10}\n")
        with open(self.config, encoding="utf-8") as file:
            text = file.read()
        test = EXIM_TEST.format(user=self._user, directory=self.directory)
        text = re.sub(r"\nacl_prdr:\n.*?(?=\nbegin routers)", lambda _: test, text, flags=re.S)
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)


def connects(port: int) -> bool:
    """
    Whether a server greets.
    """
    try:
        dialogue = Dialogue(port, 5)
    except OSError:
        return False
    greeting = dialogue.reply()
    dialogue.close()
    return greeting.startswith("220")


@attrs.frozen
class Result:
    """
    One row, for one server.

    @ivar milliseconds: from the end of the data to the last reply.
    @ivar refused: how many recipients refused: a check on what was measured.
    """

    judgements: float
    scans: float
    milliseconds: float
    refused: int


def addresses(recipients: int, cohorts: int) -> list[str]:
    """
    Interleaved: c0-0, c1-1, c2-2, c0-3, …
    """
    first = 0 if cohorts > 1 else 1  # one cohort accepts
    return [f"c{first + n % cohorts}-{n}@example.net" for n in range(recipients)]


def send(port: int, to: list[str]) -> tuple[float, int]:
    """
    One message.

    @return: milliseconds, and how many recipients refused.
    """
    data = message("hello\n" * 500, subject="score-five").replace(b"\n", b"\r\n") + b"\r\n"
    milliseconds, replies = answers(port, "client.test", "me@client.test", to, data)
    return milliseconds, sum(reply.startswith("550") for reply in replies)


def answers(
    port: int, hello: str, sender: str, to: list[str], data: bytes
) -> tuple[float, list[str]]:
    """
    What each recipient of a message answers.

    @param data: ends with an end of line.
    @return: with the milliseconds from the end of the data to the last reply.
    """
    dialogue = Dialogue(port)
    dialogue.reply()
    dialogue.say(f"EHLO {hello}", f"MAIL FROM:<{sender}> PRDR")
    for start in range(0, len(to), 50):
        replies = dialogue.say(*[f"RCPT TO:<{one}>" for one in to[start : start + 50]])
        assert all(reply.startswith("250") for reply in replies), replies
    (go,) = dialogue.say("DATA")
    assert go.startswith("354"), go
    began = time.perf_counter()
    dialogue.socket.sendall(data + b".\r\n")
    reply = dialogue.reply()
    replies = [reply] * len(to)
    if reply.startswith("353"):
        replies = [dialogue.reply() for _ in to]
        dialogue.reply()
    milliseconds = (time.perf_counter() - began) * 1000
    dialogue.close()
    assert all(reply[:3] in ("250", "550") for reply in replies), replies[:3]
    return milliseconds, replies


@attrs.frozen
class Subject:
    """
    A server that is measured.

    @ivar judged: how many judgements its log has.
    """

    port: int
    judged: Callable[[], int]


def measure(subjects: list[Subject], to: list[str], runs: int, spamd: Spamd) -> list[Result]:
    """
    The same messages to all servers in turn, so that what else the machine
    does hits them alike; the first round is not counted.
    """
    found: list[list[tuple[float, int]]] = [[] for _ in subjects]
    scans = [0] * len(subjects)
    for subject in subjects:
        send(subject.port, to)
    before = [settle(subject.judged) for subject in subjects]
    for _ in range(runs):
        for place, subject in enumerate(subjects):
            scanned = settle(spamd.scans)
            found[place].append(send(subject.port, to))
            scans[place] += settle(spamd.scans) - scanned
    results = []
    for place, subject in enumerate(subjects):
        refused = {count for _, count in found[place]}
        assert len(refused) == 1, refused
        results.append(
            Result(
                (settle(subject.judged) - before[place]) / runs,
                scans[place] / runs,
                statistics.median(milliseconds for milliseconds, _ in found[place]),
                refused.pop(),
            )
        )
    return results


def settle(count: Callable[[], int]) -> int:
    """
    A count of lines of a log, when no more come.
    """

    def same() -> bool:
        first = count()
        time.sleep(0.2)
        return count() == first

    until(same, "a log that is quiet")
    return count()


def fill(server: Server, ownUsers: bool) -> None:
    """
    Our recipients' thresholds.
    """
    with sqlite3.connect(os.path.join(server.directory, "users.db")) as database:
        database.execute(
            "CREATE TABLE users (address TEXT PRIMARY KEY, refuse_score REAL, user TEXT)"
        )
        rows = [
            (f"c{cohort}-{n}@example.net", limit, f"c{cohort}" if ownUsers else None)
            for cohort, limit in enumerate(THRESHOLDS)
            for n in range(max(RECIPIENTS))
        ]
        database.executemany("INSERT INTO users VALUES (?, ?, ?)", rows)
    database.close()


def table(case: Bench, runs: int, ownUsers: bool) -> None:
    """
    All measurements with one rule set, or with one for each cohort.
    """
    spamd = Spamd(case)
    server = case.server(CONFIG.format(spamd=spamd.endpoint))
    fill(server, ownUsers)
    exim = BenchExim(case, spamd, "$acl_m_cohort" if ownUsers else "nobody")

    def ours() -> int:
        return len(set(re.findall(r"(?m)(\w{13}) to=<\S+> content (\S+/\d+)", server.log)))

    def theirs() -> int:
        return exim.log().count("judged")

    subjects = [Subject(server.port, ours), Subject(exim.port, theirs)]
    print("| recipients | cohorts | judgements | scans | ms | Exim: judgements | scans | ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for recipients in RECIPIENTS:
        for cohorts in COHORTS:
            if cohorts <= recipients:
                to = addresses(recipients, cohorts)
                a, b = measure(subjects, to, runs, spamd)
                assert a.refused == b.refused, (a, b)
                cells: list[Any] = [recipients, cohorts]
                for one in (a, b):
                    cells += [f"{one.judgements:g}", f"{one.scans:g}", f"{one.milliseconds:.0f}"]
                print("|", " | ".join(map(str, cells)), "|", flush=True)


def main() -> None:
    """
    Both tables.
    """
    parser = argparse.ArgumentParser(description="What judging costs.")
    parser.add_argument("--runs", type=int, default=7, help="messages for each row")
    runs = parser.parse_args().runs
    for title, ownUsers in (
        ("One rule set, thresholds of the recipients' own", False),
        ("A SpamAssassin user for each cohort", True),
    ):
        print(f"\n{title}:\n")
        case = Bench()
        try:
            table(case, runs, ownUsers)
        finally:
            case.doCleanups()


if __name__ == "__main__":
    main()
