"""
SPF as others have it: the public test suite of RFC 7208 (openspf.org, release
2014.04), every case of it, and pyspf.

The suite is in pyspf's source distribution and is fetched from there: it is not
part of this project.  Explanations are not fetched by this server, which the
suite allows, so what it says about their text is not compared.
"""

from __future__ import annotations

import ipaddress
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from deferrals.model.spf import LookupFailed, reverseName
from tests.spfzone import Names, check

DISTRIBUTION = "pyspf-2.0.14"
SUITE = "rfc7208-tests.yml"

#: So many cases there are: none of them is lost on the way.
CASES = 203


def suite() -> str:
    """
    @return: the suite's text.
    @raise SkipTest: it cannot be had.
    """
    cache = os.path.expanduser("~/.cache/deferrals-tests")
    directory = os.environ.get("DEFERRALS_SPF_SUITE") or cache
    path = os.path.join(directory, f"{DISTRIBUTION}.tar.gz")
    if not os.path.exists(path):
        os.makedirs(directory, exist_ok=True)
        wanted = DISTRIBUTION.replace("-", "==")
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", directory]
        command = [sys.executable, "-m", "pip", "download", *options, wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not os.path.exists(path):
            raise SkipTest(f"{wanted} cannot be fetched: {done.stderr[-200:]}")
    with tarfile.open(path) as archive:
        member = archive.extractfile(f"{DISTRIBUTION}/test/{SUITE}")
        assert member is not None
        return member.read().decode("utf-8")


def records(zone: dict[str, list[Any]]) -> Names:
    """
    A scenario's C{zonedata}.  What is said of type SPF holds for TXT, where
    nothing is said of TXT.
    """
    table: dict[tuple[str, str], list[Any]] = {}
    broken = set()
    for name, entries in zone.items():
        if "TIMEOUT" in entries:
            broken.add(name.lower())
        said = [item for entry in entries if isinstance(entry, dict) for item in entry.items()]
        isTXT = any(kind == "TXT" for kind, _ in said)
        for kind, value in said:
            if (kind == "SPF" and isTXT) or value == "NONE":
                continue
            table.setdefault((name.lower(), "TXT" if kind == "SPF" else kind), []).append(value)
    return Names(table, broken)


def cases(text: str) -> Iterator[tuple[str, dict[str, Any], dict[str, list[Any]]]]:
    """
    @return: name, case and zone of each case.
    """
    try:
        import yaml
    except ImportError:
        raise SkipTest("PyYAML is not installed") from None
    for scenario in yaml.safe_load_all(text):
        for name, case in scenario["tests"].items():
            yield f"{scenario['description']}: {name}", case, scenario["zonedata"]


class SuiteTests(SynchronousTestCase):
    """
    L{checkHost<deferrals.model.spf.checkHost>}.
    """

    def test_suite(self) -> None:
        """Every case has the result that the suite wants; of several, the preferred one."""
        wrong, count = [], 0
        for name, case, zone in cases(suite()):
            count += 1
            wanted = case["result"]
            preferred = wanted[0] if isinstance(wanted, list) else wanted
            found = check(records(zone), case["mailfrom"], case["host"], case["helo"])
            if found.result.value != preferred:
                wrong.append(f"{name}: {found} instead of {preferred}")
        self.assertEqual(wrong, [])
        self.assertEqual(count, CASES)


NAMES = ["a.example", "b.example", "c.example", "mail.a.example", "d.b.example"]
TARGETS = [
    *(*NAMES, "void.example", "a..example", "%{d}", "%{o}", "%{h}", "%{p}", "%{d2}", "mail.%{d}"),
    *("%{s}", "%{l}.b.example", "%{l1r-}.b.example", "%{L}.b.example", "%{i}.a.example"),
    *("%{ir}.%{v}.c.example", "b", "broken.example"),
]
LENGTHS = ["", "", "", "", "/24", "/0", "//64", "/24//64", "/33", "//129", "/031"]
NETWORKS = [
    *("ip4:192.0.2.1", "ip4:192.0.2.0/24", "ip4:198.51.100.0/25", "ip4:192.0.2.1/33", "ip4:1.2"),
    *("ip6:2001:db8::1", "ip6:2001:db8::/32", "ip6:::/0", "ip6:::1/129", "ip6:::ffff:192.0.2.1"),
]
OTHERS = ["all", "-ALL", "~all", "x=y", "moo.cow=%{d}", "1x=y", "x=%", "x=", "zz", "all:x", "mx."]
ADDRESSES = {"192.0.2.1": "A", "2001:db8::1": "AAAA", "198.51.100.7": "A"}

#: Where pyspf 2.0.14 is of another opinion, by what it says then.  Four more are
#: not among the random records: it does not know the names of modifiers in
#: capitals, takes C{?exists} without a domain, wants no C{%{c}} in an unknown
#: modifier, and asks for the addresses of all mail servers before it compares
#: the first, so that trouble with the last is one.
OTHERWISE = (
    # RFC 7208 §4.6.4 speaks of terms; it counts questions, those for the
    # addresses of each mail server and each name of the client among them.
    "Void lookup limit",
    # A record that includes itself is no error where that is never reached.
    "include has trivial recursion",
    # RFC 7208 §6: how often an unknown modifier appears does not matter.
    "MUST appear at most once",
)


class Zone:
    """
    Random records, and what pyspf asks of them.
    """

    def __init__(self, choose: random.Random) -> None:
        self._choose = choose
        table: dict[tuple[str, str], list[Any]] = {}
        for name in NAMES:
            table[name, "TXT"] = [" ".join(["v=spf1", *self._terms()])]
            table[name, "A"] = self._some("192.0.2.1", "192.0.2.9", "198.51.100.7")
            table[name, "AAAA"] = self._some("2001:db8::1", "2001:db8::9")
            exchanges = [choose.choice([*NAMES, ""]) for _ in range(choose.choice([0, 1, 2, 12]))]
            table[name, "MX"] = [(10 * n, one) for n, one in enumerate(exchanges)]
            if choose.random() < 0.1:
                table[name, "TXT"] += [choose.choice(["v=spf1 -all", "hello", "v=spf10 x"])]
        for name in ("me.b.example", "1.2.0.192.in-addr.c.example", "192.0.2.1.a.example"):
            table[name, "A"] = self._some("127.0.0.2")
        for address in ADDRESSES:
            table[reverseName(ipaddress.ip_address(address)), "PTR"] = self._some(*NAMES)
        self.names = Names(table, {"broken.example"})

    def _some(self, *values: str) -> list[str]:
        return self._choose.sample(values, self._choose.randint(0, len(values)))

    def _terms(self) -> list[str]:
        return [self._term() for _ in range(self._choose.choice([0, 1, 2, 2, 3, 3, 4, 5]))]

    def _term(self) -> str:
        one = self._choose.choice
        target, qualifier = f":{one(TARGETS)}", one(["", "", "+", "-", "~", "?"])
        host = f"{one(['a', 'mx'])}{one(['', target])}{one(LENGTHS)}"
        other = f"{one(['ptr', 'exists', 'include'])}{target}"
        modifier = f"{one(['redirect', 'exp'])}={target[1:]}"
        mechanism = one([host, host, other, other, "ptr", one(NETWORKS)])
        return one([f"{qualifier}{mechanism}"] * 6 + [modifier, one(OTHERS)])

    def lookUp(self, name: str, kind: str, *_: Any) -> Iterator[tuple[tuple[str, str], Any]]:
        """
        pyspf's C{DNSLookup}.
        """
        import spf

        try:
            found = self.names.find(name, kind)
        except LookupFailed:
            raise spf.TempError("no answer") from None
        for value in found:
            if kind == "TXT":
                value = (value.encode(),)
            elif kind == "AAAA":
                value = ipaddress.ip_address(value).packed
            yield (name, kind), value


class PyspfTests(SynchronousTestCase):
    """
    The same checks by pyspf.
    """

    def test_random(self) -> None:
        """The results are the same, but where pyspf is known to decide otherwise."""
        try:
            import spf
        except ImportError:
            raise SkipTest("pyspf is not installed") from None
        choose = random.Random(7208)
        wrong = []
        for _ in range(3000):
            zone = Zone(choose)
            sender = choose.choice(["me@a.example", "strong-bad@a.example", "me@b.example", ""])
            helo = choose.choice([*NAMES, "x", "[192.0.2.1]"])
            address = choose.choice([*ADDRESSES])
            found = check(zone.names, sender, address, helo)
            self.patch(spf, "DNSLookup", zone.lookUp)
            query = spf.query(address, sender, helo, strict=True)
            theirs, _, _ = query.check()
            if theirs != found.result.value:
                reason = str(getattr(query, "perm_error", ""))
                if not any(text in reason for text in OTHERWISE):
                    wrong.append((theirs, reason, found, zone.names.records))
        self.assertEqual(wrong[:1], [])
