"""
See the package.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from tests.growth.instrument import Finder, Work, counted

#: Libraries that parse for us, and are counted as we are.
LIBRARIES = (
    "base64",
    "email._policybase",
    "email.feedparser",
    "email.message",
    "email.parser",
    "fnmatch",
    "idna.core",
    "ipaddress",
    "stringprep",
    "twisted.names.dns",
    "twisted.protocols.basic",
    "twisted.web._newclient",
    "twisted.web.http_headers",
    "zipfile",
)

#: Without examples, one in so many of the table's shapes is fed; an odd number, so that
#: each beginning has its turn.
SHARE = 5

#: An octet more costs so much at least: less is a parser that has stopped to read.
LEAST = 5

_WORK = Work()
_FINDER = Finder(
    lambda name: name.split(".")[0] == "deferrals" or name in (*LIBRARIES, "tests.growth.samples"),
    _WORK,
)


def ratio(parser: Any, shape: tuple[bytes, bytes, bytes]) -> tuple[float, list[int]]:
    """
    @return: how the work grows from n to 4n, beside that from n/4 to n; and
        what was counted.
    """
    before, unit, behind = shape
    parser.feed(parser.made(before, unit, behind, parser.octets // 4))  # what is cached, is
    found = []
    for octets in (parser.octets // 4, parser.octets, parser.octets * 4):
        data = parser.made(before, unit, behind, octets)
        found.append(counted(_WORK, lambda data=data: parser.feed(data)))
    first, second = found[1] - found[0], found[2] - found[1]
    return second / max(first, LEAST * parser.octets), found


def examine(parser: Any, examples: int) -> list[Any]:
    """
    @return: the worst shape, its ratio and what was counted.
    """
    from hypothesis import Phase, given, settings
    from hypothesis import strategies as st

    worst: list[Any] = [0.0, (b"", b"", b""), []]

    def see(shape: tuple[bytes, bytes, bytes]) -> None:
        found, units = ratio(parser, shape)
        if found > worst[0]:
            worst[:] = [found, shape, units]

    befores = dict.fromkeys((parser.before[0], parser.before[-1]))
    shapes = [(one, piece, parser.behind[0]) for piece in parser.pieces for one in befores]
    for shape in shapes[:: 1 if examples else SHARE]:
        see(shape)
    if examples:
        units = st.lists(st.sampled_from(parser.pieces), min_size=1, max_size=3).map(b"".join)
        made = st.tuples(st.sampled_from(parser.before), units, st.sampled_from(parser.behind))
        phases = [Phase.generate]
        setting = settings(
            max_examples=examples, deadline=None, derandomize=True, database=None, phases=phases
        )
        setting(given(made)(see))()
    return [parser.name, parser.modules, worst[0], repr(worst[1]), worst[2], parser.known]


def main(examples: int, wanted: list[str]) -> None:
    """
    Print a line of JSON for each parser.

    @param examples: how many shapes of hypothesis's it is fed with, beside those
        of the table; none, with some of the table.
    @param wanted: words in the names of parsers; none, for all.
    """
    from tests.growth.parsers import PARSERS, Parser
    from tests.growth.samples import LINEAR, QUADRATIC

    samples = [
        Parser(f"sample {one.__name__}", (), (b"x",), one, 100) for one in (*QUADRATIC, *LINEAR)
    ]
    for parser in [*samples, *PARSERS]:
        if not wanted or any(word in parser.name for word in wanted):
            print(json.dumps(examine(parser, examples)), flush=True)


if __name__ == "__main__":
    sys.meta_path.insert(0, _FINDER)
    sys.setrecursionlimit(1_000_000)
    threading.stack_size(512 << 20)
    thread = threading.Thread(target=main, args=(int(sys.argv[1]), sys.argv[2:]))
    thread.start()
    thread.join()
