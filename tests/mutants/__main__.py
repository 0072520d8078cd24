"""
    python -m tests.mutants [--sample N] [--least PERCENT] [--only WORD] [--store]

breaks the sentences of the list and says which of them no unit test has missed; with
C{--store} those of what is in SQL, and asks the tests that have a PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tests.mutants import choosing, stores
from tests.mutants.mutations import LIST, ListError, Mutation, load, sample
from tests.mutants.running import FAULT, Fate, Late, Told, Verdict, inForks, run, warm
from tests.rigs import LONG, VARIABLE
from tests.zygote import ROOT

CACHE = os.path.join(ROOT, ".ci", "mutants")


class Known(Protocol):
    """
    Which tests see what.
    """

    def tests(self, mutation: Mutation) -> list[str]:
        """
        Those that may see a mutation.
        """

    def patience(self, tests: list[str]) -> float:
        """
        How many seconds of a processor they may use.
        """


class Judge:
    """
    What becomes of mutations.

    @param known: which tests see what.
    @param count: how many forks there are at once.
    @param isLoud: whether those that were killed are named, too.
    @ivar verdicts: what is known by now.
    """

    def __init__(self, known: Known, count: int, *, isLoud: bool) -> None:
        self._known, self._count, self._isLoud = known, count, isLoud
        self._waited: list[Mutation] = []
        self.verdicts: list[Verdict] = []

    def judge(self, mutations: list[Mutation]) -> None:
        """
        All of them.
        """
        tested = [one for one in mutations if self._known.tests(one)]
        for one in mutations:
            if one not in tested:
                self._say(Verdict(one, Fate.UNTESTED))
        inForks([self._job(one, one, self._told) for one in tested], self._count)
        # Was it the mutation, or the machine?  Its tests say it, with nothing broken.
        inForks([self._job(one, None, self._toldUnbroken) for one in self._waited], 1)

    def _job(
        self,
        mutation: Mutation,
        broken: Mutation | None,
        told: Callable[[Mutation, str | Late], None],
    ) -> tuple[float, Callable[[], list[str]], Told]:
        tests = self._known.tests(mutation)
        return self._known.patience(tests), partial(run, tests, broken), partial(told, mutation)

    def _told(self, mutation: Mutation, text: str | Late) -> None:
        if text is Late.WAITING:
            self._waited.append(mutation)
        elif text is Late.BUSY:
            self._say(Verdict(mutation, Fate.ENDLESS))
        else:
            killer = text.partition("\n")[0]
            fate = Fate.KILLED if killer else Fate.SURVIVED
            self._say(Verdict(mutation, Fate.UNKNOWN if text.startswith(FAULT) else fate, killer))

    def _toldUnbroken(self, mutation: Mutation, text: str | Late) -> None:
        self._say(Verdict(mutation, Fate.UNKNOWN if text else Fate.ENDLESS))

    def _say(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        if self._isLoud or verdict.fate is not Fate.KILLED:
            print(_line(verdict), flush=True)


def _line(verdict: Verdict) -> str:
    one = verdict.mutation
    assert one is not None
    return (
        f"{verdict.fate.value}: {one.file}: {one.breaks}\n    {one.old!r}\n -> {one.new!r}"
        f"{verdict.killer and chr(10) + '    by ' + verdict.killer}"
    )


def unsound(verdicts: list[Verdict]) -> list[str]:
    """
    @return: the tests that have killed something, and fail in a fork where nothing is
        broken, too.
    """
    killers = sorted({one.killer for one in verdicts if one.fate is Fate.KILLED})
    failed: list[str] = []

    def told(text: str | Late) -> None:
        failed.extend([text.value] if isinstance(text, Late) else text.splitlines())

    if killers:
        inForks([(600.0, lambda: run(killers, first=False), told)], 1)
    return failed


def main() -> int:
    """
    @return: 0 where enough are killed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--sample", type=int, help="only so many, the same ones each time")
    parser.add_argument("--only", default="", help="only those with this in the file's name")
    parser.add_argument("--least", type=float, default=95.0, help="so many per cent must be killed")
    parser.add_argument("--check", action="store_true", help="only look whether the list fits")
    parser.add_argument("--record", action="store_true", help="record anew which test runs what")
    parser.add_argument("--cache", default=CACHE, help="where the record is kept")
    parser.add_argument("--store", action="store_true", help="what is in SQL: of its own list")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="name the killed ones, too")
    options = parser.parse_args()
    try:
        own, others = load(LIST), load(stores.LIST)
    except ListError as error:
        print(error)
        return 2
    mutations = others if options.store else own
    print(f"{len(mutations)} mutations are listed")
    if options.check:
        return 0
    chosen = [one for one in mutations if options.only in one.file]
    if options.sample is not None:
        chosen = sample(chosen, options.sample)
    if options.store:
        known: Known = stores.collected()
        with stores.server():
            return _judged(chosen, known, options)
    try:
        known = _recorded(options.cache, isAnew=options.record)
    except subprocess.CalledProcessError:
        print("a unit test fails where nothing is broken")
        return 2
    return _judged(chosen, known, options)


def _recorded(cache: str, *, isAnew: bool) -> choosing.Recorded:
    if isAnew or not choosing.isRecorded(cache):
        os.makedirs(cache, exist_ok=True)
        choosing.record(cache)
    return choosing.recorded(cache)


def _judged(chosen: list[Mutation], known: Known, options: argparse.Namespace) -> int:
    began = time.monotonic()
    warm()
    judge = Judge(known, options.jobs, isLoud=options.verbose)
    judge.judge(chosen)
    return _close(judge.verdicts, time.monotonic() - began, options.least)


def _close(verdicts: list[Verdict], seconds: float, least: float) -> int:
    failed = unsound(verdicts)
    for test in failed:
        print(f"fails in a fork where nothing is broken: {test}")
    fates = Counter(one.fate for one in verdicts)
    killed = fates[Fate.KILLED] + fates[Fate.ENDLESS]
    share = 100.0 * killed / max(1, len(verdicts))
    print(
        f"{len(verdicts)} mutations, {killed} killed ({share:.1f} %),"
        f" {fates[Fate.ENDLESS]} of them did not end;"
        f" {len(verdicts) - killed} survived; {seconds:.0f} s"
    )
    return 1 if failed or fates[Fate.UNKNOWN] or share < least else 0


if __name__ == "__main__":
    if not LONG and "--store" not in sys.argv:  # what sees a mutation may be one example of many
        os.environ[VARIABLE] = "long"
        os.execv(sys.executable, sys.orig_argv)
    sys.exit(main())
