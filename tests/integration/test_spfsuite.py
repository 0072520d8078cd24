"""
The public test suite of RFC 7208 (openspf.org, release 2014.04), every case of
it.  It is in pyspf's source distribution and is fetched from there: it is not
part of this project.

Explanations are not fetched by this server, which the suite allows, so what it
says about their text is not compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

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
    directory = os.environ.get("DEFERRALS_SPF_SUITE") or tempfile.gettempdir()
    path = os.path.join(directory, f"{DISTRIBUTION}.tar.gz")
    if not os.path.exists(path):
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
