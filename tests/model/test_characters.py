"""
Characters that are not for text in one line.
"""

from __future__ import annotations

import re
import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.characters import UNFIT, WORD

JOINERS = {"\u200c", "\u200d"}


class CharacterTests(SynchronousTestCase):
    """
    L{UNFIT} and L{WORD}, against what Python knows of Unicode.
    """

    def test_all(self) -> None:
        """Each character is in the right class."""
        unfit, word = re.compile(f"[{UNFIT}]"), re.compile(f"[{WORD}]")
        for number in range(0x110000):
            character = chr(number)
            kind = unicodedata.category(character)
            if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS:
                self.assertTrue(unfit.match(character), hex(number))
                self.assertFalse(word.match(character), hex(number))
            elif kind == "Zs" or number < 0x80:
                self.assertFalse(word.match(character), hex(number))
            elif kind != "Cn":
                self.assertFalse(unfit.match(character), hex(number))
                self.assertTrue(word.match(character), hex(number))

    def test_lineEnds(self) -> None:
        """Nothing that Python takes for a line's end is fit."""
        for number in range(0x110000):
            character = chr(number)
            if len(f"a{character}b".splitlines()) > 1:
                self.assertTrue(re.match(f"[{UNFIT}]", character), hex(number))
