"""
Characters that are not for text in one line.
"""

from __future__ import annotations

import re
import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.characters import UNFIT, WORD

EVERY = "".join(map(chr, range(0x110000)))
JOINERS = {"\u200c", "\u200d"}


class CharacterTests(SynchronousTestCase):
    """
    L{UNFIT} and L{WORD}, against what Python knows of Unicode.
    """

    def test_all(self) -> None:
        """Each character is in the right class."""
        unfit, word = (set(re.findall(f"[{kind}]", EVERY)) for kind in (UNFIT, WORD))
        for character in EVERY:
            kind = unicodedata.category(character)
            if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS:
                wanted = (True, False)
            elif kind == "Zs" or character < "\x80":
                wanted = (character in unfit, False)
            elif kind != "Cn":
                wanted = (False, True)
            else:
                continue
            if (character in unfit, character in word) != wanted:
                self.fail(f"{character!r} is none of {kind}")

    def test_lineEnds(self) -> None:
        """Nothing that Python takes for a line's end is fit."""
        *lines, _ = EVERY.splitlines(keepends=True)
        ends = {line[-1] for line in lines}
        self.assertLess({"\n", "\r", "\x85", "\u2028"}, ends)
        for character in ends:
            self.assertRegex(character, f"[{UNFIT}]")
