"""
    python -m tests.mutants [--sample N] [--least PERCENT] [--only WORD]

breaks the sentences of the list and says which of them no unit test has missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter

from tests.mutants import choosing
from tests.mutants.mutations import ListError, Mutation, load, sample
from tests.mutants.running import FAULT, LEAST_SECONDS, TIMES, Fate, Verdict, inForks, run, warm
from tests.zygote import ROOT

CACHE = os.path.join(ROOT, ".ci", "mutants")


def judge(
    mutations: list[Mutation], known: choosing.Recorded, count: int, *, isLoud: bool
) -> list[Verdict]:
    """
    What becomes of each.
    """
    verdicts: list[Verdict] = []
    jobs = []

    def note(mutation: Mutation, text: str | None) -> None:
        fate = Fate.TIMED_OUT if text is None else Fate.KILLED if text else Fate.SURVIVED
        if text is not None and text.startswith(FAULT):
            fate = Fate.UNKNOWN
        verdicts.append(Verdict(mutation, fate, (text or "").partition("\n")[0]))
        if isLoud or fate is not Fate.KILLED:
            print(_line(verdicts[-1]), flush=True)

    for mutation in mutations:
        tests = known.tests(mutation)
        if not tests:
            verdicts.append(Verdict(mutation, Fate.UNTESTED))
            print(_line(verdicts[-1]), flush=True)
            continue
        seconds = LEAST_SECONDS + TIMES * sum(known.seconds.get(one, 0.0) for one in tests)
        jobs.append(
            (
                seconds,
                lambda tests=tests, mutation=mutation: run(tests, mutation),
                lambda text, mutation=mutation: note(mutation, text),
            )
        )
    inForks(jobs, count)
    return verdicts


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

    def told(text: str | None) -> None:
        failed.extend(["they did not end"] if text is None else text.splitlines())

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
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="name the killed ones, too")
    options = parser.parse_args()
    try:
        mutations = load()
    except ListError as error:
        print(error)
        return 2
    print(f"{len(mutations)} mutations are listed")
    if options.check:
        return 0
    if options.record or not choosing.isRecorded(options.cache):
        os.makedirs(options.cache, exist_ok=True)
        try:
            choosing.record(options.cache)
        except subprocess.CalledProcessError:
            print("a unit test fails where nothing is broken")
            return 2
    known = choosing.recorded(options.cache)
    chosen = [one for one in mutations if options.only in one.file]
    if options.sample is not None:
        chosen = sample(chosen, options.sample)
    began = time.monotonic()
    warm()
    verdicts = judge(chosen, known, options.jobs, isLoud=options.verbose)
    return _close(verdicts, time.monotonic() - began, options.least)


def _close(verdicts: list[Verdict], seconds: float, least: float) -> int:
    failed = unsound(verdicts)
    for test in failed:
        print(f"fails in a fork where nothing is broken: {test}")
    fates = Counter(one.fate for one in verdicts)
    killed = fates[Fate.KILLED] + fates[Fate.TIMED_OUT]
    share = 100.0 * killed / max(1, len(verdicts))
    print(
        f"{len(verdicts)} mutations, {killed} killed ({share:.1f} %),"
        f" {fates[Fate.TIMED_OUT]} of them by the limit of time;"
        f" {len(verdicts) - killed} survived; {seconds:.0f} s"
    )
    return 1 if failed or fates[Fate.UNKNOWN] or share < least else 0


if __name__ == "__main__":
    sys.exit(main())
