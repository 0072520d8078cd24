"""
What a filter of the milter protocol costs: conversations and milliseconds against the
number of recipients and of cohorts, under PRDR.

    python benchmarks/filters.py [--runs 7]

The filter answers at once, and counts.  Prints Markdown.

I{Conversations}: what the filter was told of a sender.  I{Milliseconds}: from the end of
the data to the last reply, the median; the message has been written durably by then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.integration.scriptedfilter import EditingFilter
from tests.integration.support import Dialogue, IntegrationCase, crlf, message

RECIPIENTS = (1, 10, 100, 1000)
COHORTS = (1, 3, 10)

HEAD = """
hostname = "mx.example.net"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[deliveries.hole]
use = "discard"
"""

POLICY = """
[policies.{name}]
content = [ {{ use = "milter", socket = "tcp:127.0.0.1:{port}", {more} }} ]

[[recipients]]
match = "*@{name}.example.net"
policy = "{name}"
deliver = "hole"
"""


class FilterBench(IntegrationCase):
    """
    Keeps processes until it is cleaned up.
    """

    def runTest(self) -> None:
        """
        Nothing: it is no test.
        """


def send(port: int, to: list[str], data: bytes) -> float:
    """
    One message.

    @return: milliseconds.
    """
    dialogue = Dialogue(port)
    dialogue.reply()
    dialogue.say("EHLO client.test", "MAIL FROM:<me@client.test> PRDR")
    for start in range(0, len(to), 50):
        dialogue.say(*[f"RCPT TO:<{one}>" for one in to[start : start + 50]])
    dialogue.say("DATA")
    began = time.perf_counter()
    dialogue.socket.sendall(crlf(data) + b"\r\n.\r\n")
    reply = dialogue.reply()
    if reply.startswith("353"):
        for _ in range(len(to) + 1):
            dialogue.reply()
    milliseconds = (time.perf_counter() - began) * 1000
    dialogue.close()
    return milliseconds


def main() -> None:
    """
    Print the table.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    runs: int = parser.parse_args().runs
    bench = FilterBench()
    filter = EditingFilter([[b"hX-Filter\0seen\0"]])
    bench.addCleanup(filter.stop)
    print("| per | recipients | cohorts | conversations | ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    try:
        for per in ("cohort", "message"):
            text = HEAD
            for number in range(max(COHORTS)):
                more = f'per = "{per}", reply = "550 5.7.1 c{number}"'
                text += POLICY.format(name=f"c{number}", port=filter.port, more=more)
            server = bench.server(text)
            data = message("hello\n" * 500, "case 0")
            send(server.port, ["a@c0.example.net"], data)
            for recipients in RECIPIENTS:
                for cohorts in COHORTS:
                    if cohorts > recipients:
                        continue
                    to = [f"r{n}@c{n % cohorts}.example.net" for n in range(recipients)]
                    before = filter.conversations
                    found = [send(server.port, to, data) for _ in range(runs)]
                    count = (filter.conversations - before) / runs
                    middle = statistics.median(found)
                    print(f"| {per} | {recipients} | {cohorts} | {count:g} | {middle:.0f} |")
    finally:
        bench.doCleanups()


if __name__ == "__main__":
    main()
