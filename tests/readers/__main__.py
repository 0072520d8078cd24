"""
See the package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from tests.readers.archives import archives
from tests.readers.compare import REFUSED, Exempted, archived, case, differences, made
from tests.readers.dump import AT_ONCE
from tests.readers.exemptions import EXEMPTIONS, Difference
from tests.readers.mails import messages
from tests.readers.shown import archive


def _messages(options: argparse.Namespace, exempted: Exempted) -> list[Difference]:
    found: list[Difference] = []
    for number, start in enumerate(range(0, options.cases, AT_ONCE)):
        count = min(AT_ONCE, options.cases - start)
        found += differences(made(messages(), count, options.seed * 1000 + number), exempted)
        print(f"{start + count} messages, {len(found)} differences", file=sys.stderr, flush=True)
    for one in found[: options.show]:
        print("----", one.reader, "shows", one.name if one.content is None else one.content[:200])
        print(one.message.decode("utf-8", "backslashreplace").replace("\r", ""))
    return found


def _archives(options: argparse.Namespace) -> int:
    bad = 0
    for data, name in made(archives(), options.archives, options.seed):
        names = archived(data, name, archive(data, name))
        bad += bool(names)
        if names:
            print("an archive:", name, sorted(names), data[:200])
    return bad


def _keep(path: str, found: list[Difference]) -> None:
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    cases += [case(one) for one in dict.fromkeys(one.message for one in found)]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(cases, file, indent=1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.readers")
    parser.add_argument("--cases", type=int, default=500, help="messages")
    parser.add_argument("--archives", type=int, default=100, help="archives")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10, help="differences")
    parser.add_argument("--keep", metavar="FILE", help="a corpus that what is found is put into")
    options = parser.parse_args()
    exempted: Exempted = Counter()
    found = _messages(options, exempted)
    if options.keep:
        _keep(options.keep, found)
    bad = _archives(options)
    print("Differences that may be, and how many there were:")
    for one in EXEMPTIONS:
        print(f"{exempted[one.reason]:7}  {one.reason}")
    print(f"{exempted[REFUSED]:7}  {REFUSED}")
    print(f"{options.cases} messages, {len(found)} differences; {options.archives} archives, {bad}")
    return 1 if found or bad else 0


if __name__ == "__main__":
    sys.exit(main())
