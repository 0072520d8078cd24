"""
What it costs to find out where a message comes from: judgements, evaluations, questions to
DNS and milliseconds against the number of recipients and of cohorts.

    python benchmarks/authentication.py [--runs 5]

Needs the extra C{authentication}.  Prints Markdown.

Each cohort trusts another forwarder; recipients of several cohorts are interleaved.  The
message is signed (RSA, 2,048 bits) and was sealed twice, and changed behind that, so that
all but one cohort refuse it.  I{Evaluations}: lines of the log that say what was found.
I{Milliseconds}: from the end of the data to the last reply, the median.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.judgements import Bench, addresses, answers, settle
from tests.integration.support import Server
from tests.integration.test_authenticate import MAIL, Introducer, records
from tests.server.test_verifying import SignedMail
from tests.zone import Zone

RECIPIENTS = (1, 10, 100, 1000)
COHORTS = (1, 3, 10)

CONFIG = """
hostname = "mx.example.net"
bounces = "none"
dns = ["{dns}"]

[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"

[deliveries.hole]
use = "discard"

[policies.staff]
content = [ {{ use = "authenticate", dmarc = "enforce" }} ]

[[recipients]]
match = "*@example.net"
policy = "staff"
deliver = "hole"
check = [ {{ use = "users", sqlite = "users.db", cache = 3600 }} ]
"""


def fill(server: Server) -> None:
    """
    Whom recipients trust.
    """
    with sqlite3.connect(os.path.join(server.directory, "users.db")) as database:
        database.execute("CREATE TABLE users (address TEXT PRIMARY KEY, trusted_forwarders TEXT)")
        rows = [
            (f"c{cohort}-{n}@example.net", f"list{cohort - 1}.example")
            for cohort in range(max(COHORTS) + 1)
            for n in range(max(RECIPIENTS))
        ]
        database.executemany("INSERT INTO users VALUES (?, ?)", rows)
    database.close()


def send(port: int, to: list[str], data: bytes) -> tuple[float, int]:
    """
    One message.

    @return: milliseconds, and how many recipients accept.
    """
    milliseconds, replies = answers(port, "mail.list0.example", "list@list0.example", to, data)
    return milliseconds, sum(reply.startswith("250") for reply in replies)


def main() -> None:
    """
    The table.
    """
    parser = argparse.ArgumentParser(description="What authentication costs.")
    parser.add_argument("--runs", type=int, default=5, help="messages for each row")
    runs = parser.parse_args().runs
    case, mail = Bench(), SignedMail()
    zone = Zone(records(mail))
    server = case.server(CONFIG.format(dns="{}:{}".format(*zone.address)))
    fill(server)
    front = Introducer(case, server.port)
    data = mail.sealed(mail.signed(MAIL), 0, 1).replace(b"Body", b"Bodies")

    def judged() -> int:
        return len(set(re.findall(r"(?m)(\w{13}) to=<\S+> content (\S+/\d+)", server.log)))

    def found() -> int:
        return server.log.count("dmarc=fail header.from")

    print("| recipients | cohorts | judgements | evaluations | questions | ms |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for recipients in RECIPIENTS:
        for cohorts in COHORTS:
            if cohorts > recipients:
                continue
            to = addresses(recipients, cohorts)
            send(front.port, to, data)
            before = settle(judged), found(), len(zone.asked)
            times = [send(front.port, to, data)[0] for _ in range(runs)]
            after = settle(judged), found(), len(zone.asked)
            counts = [f"{(b - a) / runs:g}" for a, b in zip(before, after, strict=True)]
            cells = [recipients, cohorts, *counts, f"{statistics.median(times):.0f}"]
            print("|", " | ".join(map(str, cells)), "|", flush=True)
    zone.close()
    case.doCleanups()


if __name__ == "__main__":
    main()
