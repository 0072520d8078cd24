"""
What the stages C{dnsbl} and C{sieve} cost against recipients and cohorts: look-ups of
DNS, runs of the program, and milliseconds.

    python -m benchmarks.policies [--runs 5]

C{dnsbl}: three lists on loopback, and a policy for each cohort, with a weight of its own;
every message comes from another client.  Milliseconds are from RCPT TO, pipelined, to
the last reply.  C{sieve}: a script for each cohort; a quarter of them refuses.
Milliseconds are from the end of the data to the last reply.  Needs root (scripts are not
run by it) and C{sieve-test}.  Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.peers import Ground
from tests.integration.support import Dialogue, Server, cli, crlf, message
from tests.zone import Zone

RECIPIENTS = (1, 10, 100, 1000)
COHORTS = (1, 3, 10)

#: Rows of the first message are not counted.
HEAD = """
hostname = "mx.bench.test"
bounces = "none"
reverse_dns = false
dns = ["127.0.0.1:{dns}"]

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
xclient = ["127.0.0.1"]

[deliveries.hole]
use = "discard"
"""

LISTED = """
[policies.l{cohort}]
envelope = "accept"
[[recipients]]
match = "*@l{cohort}.bench.test"
policy = "l{cohort}"
deliver = "hole"
check = [ {{ use = "dnsbl", refuse_weight = {weight}, lists = [
  {{ zone = "one.test" }}, {{ zone = "two.test" }}, {{ zone = "three.test" }},
] }} ]
"""

SCRIPTED = """
[policies.s]
content = [ {{ use = "sieve", path = "{directory}/{{domain}}.sieve", timeout = 30 }} ]
[[recipients]]
match = "*@*.bench.test"
policy = "s"
deliver = "hole"
"""


class Bench:
    """
    Our server, and a zone that counts.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        directory = Ground(stack).directory()
        self.zone = Zone({(f"{n}.100.51.198.one.test", "A"): ["127.0.0.2"] for n in range(256)})
        stack.callback(self.zone.close)
        text = HEAD.format(dns=self.zone.address[1])
        for cohort in range(max(COHORTS)):
            text += LISTED.format(cohort=cohort, weight=2 + cohort)
            refuses = 'reject "no";' if cohort % 4 == 1 else "discard;"
            script = f'require "reject"; # {cohort}\nif exists "Subject" {{ {refuses} }}\n'
            with open(f"{directory}/s{cohort}.bench.test.sieve", "w", encoding="ascii") as file:
                file.write(script)
        self.server = Server(directory, text + SCRIPTED.format(directory=directory))
        stack.callback(self.server.kill)
        self._clients = 0

    def lookUps(self) -> int:
        return len(self.zone.asked)

    def runs(self) -> int:
        found = json.loads(cli("status", "--config", self.server.path, "--json").stdout)
        return int(found["counters"].get("sieve sieve-test", {}).get("asked", 0))

    def _begin(self) -> Dialogue:
        dialogue = Dialogue(self.server.port)
        dialogue.reply()
        self._clients += 1
        dialogue.say(f"XCLIENT ADDR=198.51.100.{self._clients % 256}")
        dialogue.say("EHLO client.test", "MAIL FROM:<me@client.test> PRDR")
        return dialogue

    def envelope(self, to: Sequence[str]) -> float:
        """
        @return: milliseconds.
        """
        dialogue = self._begin()
        began = time.perf_counter()
        replies = dialogue.say(*(f"RCPT TO:<{one}>" for one in to))
        milliseconds = (time.perf_counter() - began) * 1000
        assert all(reply.startswith("250") for reply in replies), replies[:3]
        dialogue.close()
        return milliseconds

    def content(self, to: Sequence[str]) -> float:
        """
        @return: milliseconds.
        """
        dialogue = self._begin()
        dialogue.say(*(f"RCPT TO:<{one}>" for one in to), "DATA")
        dialogue.socket.sendall(crlf(message("hello\n" * 500)))
        began = time.perf_counter()
        dialogue.socket.sendall(b"\r\n.\r\n")
        if dialogue.reply().startswith("353"):
            for _ in range(len(to) + 1):
                dialogue.reply()
        milliseconds = (time.perf_counter() - began) * 1000
        dialogue.close()
        return milliseconds


def addresses(letter: str, recipients: int, cohorts: int) -> list[str]:
    """
    Interleaved.
    """
    return [f"u{n}@{letter}{n % cohorts}.bench.test" for n in range(recipients)]


def table(
    what: str,
    letter: str,
    send: Callable[[Sequence[str]], float],
    count: Callable[[], int],
    runs: int,
) -> None:
    """
    All rows for one stage.
    """
    print(f"\n| recipients | cohorts | {what} | ms |\n| ---: | ---: | ---: | ---: |")
    for recipients in RECIPIENTS:
        for cohorts in COHORTS:
            if cohorts <= recipients:
                to = addresses(letter, recipients, cohorts)
                send(to)
                before = count()
                found = [send(to) for _ in range(runs)]
                each = (count() - before) / runs
                print(f"| {recipients} | {cohorts} | {each:g} | {statistics.median(found):.0f} |")


def main() -> None:
    """
    Both tables.
    """
    parser = argparse.ArgumentParser(description="What lists and scripts cost.")
    parser.add_argument("--runs", type=int, default=5, help="messages for each row")
    runs = parser.parse_args().runs
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        table("look-ups", "l", bench.envelope, bench.lookUps, runs)
        table("runs", "s", bench.content, bench.runs, runs)


if __name__ == "__main__":
    main()
