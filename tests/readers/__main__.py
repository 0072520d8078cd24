"""
See the package.
"""

from __future__ import annotations

import argparse
import sys

from tests.readers.archives import archives
from tests.readers.compare import archived, differences, made
from tests.readers.mails import messages
from tests.readers.shown import AT_ONCE, archive


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.readers")
    parser.add_argument("--cases", type=int, default=500, help="messages")
    parser.add_argument("--archives", type=int, default=60, help="archives")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=3, help="differences of each reader")
    options = parser.parse_args()
    found = []
    for number, start in enumerate(range(0, options.cases, AT_ONCE)):
        count = min(AT_ONCE, options.cases - start)
        found += differences(made(messages(), count, options.seed * 1000 + number))
    for reader in dict.fromkeys(one.reader for one in found):
        ours = [one for one in found if one.reader == reader]
        print(f"{reader}: {len(ours)} of {options.cases}")
        for one in ours[: options.show]:
            print("----", reader, "shows", one.name if one.content is None else one.content[:200])
            print(one.message.decode("utf-8", "backslashreplace").replace("\r", ""))
    bad = 0
    for data, name in made(archives(), options.archives, options.seed):
        names = archived(data, name, archive(data, name))
        bad += bool(names)
        if names:
            print("an archive:", name, sorted(names), data[:200])
    print(f"{options.cases} messages, {len(found)} differences; {options.archives} archives, {bad}")
    return 1 if found or bad else 0


if __name__ == "__main__":
    sys.exit(main())
