"""
See the package.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import random
import sys
from collections.abc import Callable, Hashable, Sequence
from unittest.mock import patch

import attrs

from benchmarks.mixed.choices import CHOICES, Choice
from benchmarks.mixed.figures import TITLES, Figures
from benchmarks.mixed.traffic import START, Mail, Shape, mails
from tests.harness import Bench
from tests.mixed.sessions import Sessions
from tests.mixed.world import Message, Server, Wrong


def modelled(choice: Choice, found: Sequence[Mail]) -> Server:
    """
    A model server for these messages.
    """
    server = Server(choice.procedure(), _judge(found), _cohort(found))
    server.exact = choice.isExact
    server.lot = lots(found)
    return server


def lots(found: Sequence[Mail]) -> Callable[..., int]:
    """
    A number for each transaction, the same again for the same messages.
    """
    rng = random.Random(found[0].sender.message.digest)
    return lambda *_: rng.randrange(2**32)


def spoken(choice: Choice, found: Sequence[Mail]) -> Sessions:
    """
    Real sessions for these messages.
    """
    assert choice.settings is not None
    mixed, fallback = choice.settings
    bench = Bench(mixed=mixed, mixed_fallback=fallback)
    bench.content.cohorts.update({k: c for mail in found for k, c in mail.cohorts.items()})
    server = Sessions(choice.procedure(), _judge(found), _cohort(found), bench=bench)
    server.exact = choice.isExact
    return server


def _judge(found: Sequence[Mail]) -> Callable[[str, Message, float], str]:
    says = {mail.sender.message.digest: mail.says for mail in found}

    def judge(key: str, message: Message, now: float) -> str:
        return says[message.digest][key].at(now)

    return judge


def _cohort(found: Sequence[Mail]) -> Callable[[str], Hashable]:
    cohorts = {key: cohort for mail in found for key, cohort in mail.cohorts.items()}
    return cohorts.__getitem__


def send(server: Server, found: Sequence[Mail]) -> None:
    """
    Let the senders come, each at its times, until their ends.
    """
    due = [(START + number, number) for number in range(len(found))]
    while due:
        now, number = heapq.heappop(due)
        mail = found[number]
        if isinstance(server, Sessions):
            server.at(now)
            server.text = mail.sender.message
        server.now = now
        mail.times.append(now)
        mail.sender.come(server)
        mail.note(server)
        wait = next(mail.waits, None) if mail.sender.pending else None
        if wait is not None:
            heapq.heappush(due, (now + wait, number))
    if isinstance(server, Sessions):
        server.at(server.now)


def measure(choice: Choice, messages: int, shape: Shape) -> Figures:
    """
    One row.
    """
    figures = Figures()
    for number in range(messages):
        found = mails(number, shape)
        server = modelled(choice, found)
        try:
            send(server, found)
        except Wrong as error:
            figures.wrongIn.append(f"{number}: {error}")
            figures.wrong += 1
        for mail in found:
            figures.add(mail, server, choice.tells)
    return figures


def outcome(server: Server, found: Sequence[Mail]) -> list[object]:
    """
    What became of messages, to be compared.
    """
    ends = [(mail.sender.told, mail.sender.named, mail.times, mail.arrived) for mail in found]
    return [*ends, +server.copies, sorted(server.filed)]


def differences(choice: Choice, messages: int, shape: Shape) -> list[int]:
    """
    One message of a sender at a time: of several which look alike, the lot decides
    among names that are others there.

    @return: the messages of which real sessions make another thing than the model
        server.
    """
    different, shape = [], attrs.evolve(shape, together=0.0)
    for number in range(messages):
        outcomes = []
        for make in (modelled, spoken):
            found = mails(number, shape)
            server = make(choice, found)
            drawn = patch("deferrals.smtp.server.mixed.random.randrange", lots(found))
            with drawn, contextlib.suppress(Wrong):  # which is counted in the table
                send(server, found)
            outcomes.append(outcome(server, found))
        if outcomes[0] != outcomes[1]:
            different.append(number)
    return different


def show(choice: Choice, number: int, shape: Shape) -> None:
    """
    One message, line by line.
    """
    found = mails(number, shape)
    server = modelled(choice, found)
    print(f"\n{choice.name}")
    for mail in found:
        print(f"{mail.kind.name}: {mail.sender}\n{mail.says}")
    server.log = _Printed(server)
    send(server, found)
    for mail in found:
        print(f"told {mail.sender.told}, copies {dict(server.copies)}")


class _Printed(list[tuple[object, ...]]):
    """
    What is said is printed at once.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def append(self, entry: tuple[object, ...]) -> None:
        """With the minutes since the message came first."""
        _, client, *what = entry
        print(f"{(self._server.now - START) / 60:8.1f}  {client.address:15}", *what)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mixed", description="What each choice for mixed mail costs."
    )
    parser.add_argument("--messages", type=int, default=20000)
    parser.add_argument("--sessions", type=int, default=1000, help="through real sessions, too")
    parser.add_argument("--choices", default="", help="rows whose names contain one of these")
    parser.add_argument("--message", type=int, help="show this one")
    for field in attrs.fields(Shape):
        kind = type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    return parser.parse_args()


def table(choices: Sequence[Choice], messages: int, shape: Shape) -> bool:
    """
    Print it.

    @return: whether the product's procedure has given no wrong answer.
    """
    isRight = True
    print(f"| choice | {' | '.join(TITLES)} |\n|{' --- |' * (1 + len(TITLES))}")
    for choice in choices:
        figures = measure(choice, messages, shape)
        print(figures.row(choice.name), flush=True)
        if choice.isExact and figures.wrongIn:
            isRight = False
            print(f"{choice.name}: wrong: {figures.wrongIn[:10]}", file=sys.stderr)
    return isRight


def comparison(choices: Sequence[Choice], messages: int, shape: Shape) -> bool:
    """
    Print how many messages come to the same through real sessions.

    @return: whether all do.
    """
    isRight = True
    for choice in choices:
        if choice.settings is not None and messages:
            different = differences(choice, messages, shape)
            isRight = isRight and not different
            same = f"{messages - len(different)} of {messages} messages end as in the model"
            print(f"{choice.name}, real sessions: {same}", *different[:10], flush=True)
    return isRight


def main() -> int:
    """
    Print the table, and what a part of the traffic comes to through sessions.

    @return: 1 where the product's procedure gives a wrong answer, or sessions do
        another thing than the model.
    """
    arguments = _arguments()
    names = arguments.choices.split(",")
    choices = [one for one in CHOICES if any(name in one.name for name in names)]
    shape = Shape(**{field.name: getattr(arguments, field.name) for field in attrs.fields(Shape)})
    if arguments.message is not None:
        for choice in choices:
            show(choice, arguments.message, shape)
        return 0
    print(f"{arguments.messages} messages to several recipients, {shape}\n")
    isRight = table(choices, arguments.messages, shape)
    print()
    return int(not (comparison(choices, arguments.sessions, shape) and isRight))


if __name__ == "__main__":
    sys.exit(main())
