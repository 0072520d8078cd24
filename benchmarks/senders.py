"""
What each choice for the mixed rung costs, with traffic of a given shape and
senders of given kinds: a simulation in which models of senders talk to real
sessions, on a clock that does not wait.

    python benchmarks/senders.py
    python benchmarks/senders.py --messages 20000 --multi 0.4 --cohorts 0.5 --mixed 0.3

The senders' retry schedules and habits are those of C{docs/senders.md}.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import attrs

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from deferrals.model.envelope import Form
from deferrals.model.mixed import Mixed
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Refuse
from tests.harness import Bench
from tests.senders import Sender, decide, run

REFUSE = Refuse(Reply(550, "5.7.1", "no"))
DAY = 86400.0


@attrs.frozen
class Kind:
    """
    A kind of sender.

    @ivar share: how much of the traffic is its.
    @ivar waits: seconds between its attempts; the last one repeats.
    """

    name: str
    share: float
    waits: tuple[float, ...]
    form: Form = Form.PLAIN
    keepsApart: bool = True

    def schedule(self) -> Iterator[float]:
        """
        For five days.
        """
        left, place = 5 * DAY, 0
        while left > 0:
            wait = self.waits[min(place, len(self.waits) - 1)]
            yield wait
            left -= max(wait, 1)
            place += 1


KINDS = [
    Kind("Exim with PRDR", 0.25, (900, 900, 900, 1800, 3600), Form.PRDR),
    Kind("Exim without PRDR", 0.05, (900, 900, 900, 1800, 3600), keepsApart=False),
    Kind("Postfix, two names for us", 0.2, (0.001, 300, 0.001, 600, 0.001, 1200, 0.001, 2400)),
    Kind("Postfix, one name", 0.15, (300, 600, 1200, 2400, 4000)),
    Kind("OpenSMTPD", 0.05, (400, 1600, 3600, 6400)),
    Kind("others, slow", 0.3, (900, 1800, 3600)),
]


@attrs.define
class Tally:
    """
    What has happened under one choice.
    """

    messages: int = 0
    extra: int = 0
    seconds: list[float] = attrs.field(factory=list)
    notified: int = 0
    filed: int = 0
    wrong: int = 0

    def row(self, name: str) -> str:
        """
        As a row of the table.
        """
        ordered = sorted(self.seconds)
        p95 = ordered[int(len(ordered) * 0.95)] if ordered else 0.0
        median = statistics.median(ordered) if ordered else 0.0
        return (
            f"| {name} | {1000 * self.extra / self.messages:.1f} | {median:.0f} | {p95:.0f}"
            f" | {1000 * self.notified / self.messages:.1f}"
            f" | {1000 * self.filed / self.messages:.1f} | {self.wrong} |"
        )


def message(rng: random.Random, shape: argparse.Namespace) -> dict[str, tuple[int, Any]]:
    """
    Recipients of one message, each with its cohort and its verdict.
    """
    verdict = ACCEPT if rng.random() < 0.8 else REFUSE
    if rng.random() >= shape.multi:
        return {"r0@example.net": (0, verdict)}
    cohorts = rng.randint(2, 3) if rng.random() < shape.cohorts else 1
    verdicts = [verdict] * cohorts
    if cohorts > 1 and rng.random() < shape.mixed:
        verdicts = [ACCEPT] * cohorts
        verdicts[rng.randrange(cohorts)] = REFUSE
    found = {}
    for number in range(rng.randint(max(2, cohorts), 6)):
        cohort = number if number < cohorts else rng.randrange(cohorts)
        found[f"r{number}@example.net"] = (cohort, verdicts[cohort])
    return found


def send(
    kind: Kind,
    choice: Mixed,
    recipients: dict[str, tuple[int, Any]],
    address: str,
    tally: Tally,
) -> None:
    """
    One message's whole way.

    @param address: its return path.
    """
    bench = Bench(mixed=choice)
    for recipient, (cohort, verdict) in recipients.items():
        decide(bench, {recipient: verdict}, {recipient: cohort})
    sender = Sender(
        bench,
        list(recipients),
        kind.form,
        keepsApart=kind.keepsApart,
        address=lambda attempt: address,
    )
    began = bench.clock.seconds()
    run(sender, kind.schedule())
    tally.messages += 1
    tally.extra += sender.transactions - 1
    if len(recipients) > 1:
        tally.seconds.append(max(sender.finished.values(), default=began) - began)
    diverted = [name for name in bench.released if ":" in name]
    tally.notified += sum(name.endswith(":notified") for name in diverted)
    tally.filed += sum(name.endswith(":filed") for name in diverted)
    told = {name.partition(":")[0] for name in diverted}
    for recipient, (_, verdict) in recipients.items():
        answer = sender.told.get(recipient, "nothing")[0]
        accepts = verdict == ACCEPT
        right = bench.released.count(recipient) == int(accepts)
        tally.wrong += not (right and answer == ("2" if accepts or recipient in told else "5"))


def main() -> None:
    """
    Print the table.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--multi", type=float, default=0.3, help="share to several recipients")
    parser.add_argument("--cohorts", type=float, default=0.4, help="of these: several cohorts")
    parser.add_argument("--mixed", type=float, default=0.3, help="of these: verdicts differ")
    parser.add_argument("--aligned", type=float, default=0.6, help="return paths that pass SPF")
    parser.add_argument("--seed", type=int, default=1)
    shape = parser.parse_args()
    print(
        f"{shape.messages} messages, {shape.multi:.0%} to several recipients,"
        f" {shape.cohorts:.0%} of these of several cohorts,"
        f" {shape.mixed:.0%} of these truly mixed\n"
    )
    print(
        "| choice | extra transactions per 1,000 messages | seconds to the last answer"
        " (several recipients): median | p95 | DSNs per 1,000 | filed per 1,000"
        " | wrong answers |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for choice in Mixed:
        rng = random.Random(shape.seed)
        tally = Tally()
        for _ in range(shape.messages):
            kind = rng.choices(KINDS, [kind.share for kind in KINDS])[0]
            aligned = rng.random() < shape.aligned
            address = f"{'aligned' if aligned else 'sender'}@example.com"
            send(kind, choice, message(rng, shape), address, tally)
        print(tally.row(choice.value))


if __name__ == "__main__":
    main()
