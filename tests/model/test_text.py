"""
Text from outside, for people.
"""

import sys
import unicodedata

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.text import cleaned, cleanedLines, hasControls, oneLine, word

#: One of each kind of what acts or hides (S16).
BAD = (
    *"\0\a\x1b\x7f\x80\x85\x9b\x9f\u2028\u2029",
    *"\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    *"\xad\u200b\u200d\u2060\u3164\ufeff\ufff9\U000e0041",
    *"\ud800\udfff",
)


class TextTests(SynchronousTestCase):
    """
    L{cleaned} and its neighbours.
    """

    def test_every(self) -> None:
        """Whatever Unicode calls a control, a format or a line character is written out."""
        for number in range(sys.maxunicode + 1):
            character = chr(number)
            kind = unicodedata.category(character)
            if kind in ("Cc", "Cf", "Cs", "Zl", "Zp"):
                self.assertNotIn(character, cleaned(f"a{character}b"), hex(number))

    def test_written(self) -> None:
        """As RFC 6533 writes a character of an address; what is blank is a blank."""
        self.assertEqual(cleaned("a\x9b\u202eb\ud800"), "a\\x{9B}\\x{202E}b\\x{D800}")
        self.assertEqual(cleaned("a\tb\r\nc"), "a b  c")
        self.assertEqual(cleanedLines("a\tb\nc\rd"), ["a b", "c d"])

    def test_honest(self) -> None:
        """What people write stays as it is."""
        for text in (
            "",
            "plain",
            "gr\xfc\xdfe",
            "\u65e5\u672c\u3000x",
            "\u05d0\u05d1",
            "\u2764\ufe0f \xa0",
        ):
            self.assertEqual(cleaned(text), text)
            self.assertEqual(oneLine(text), text)
            self.assertFalse(hasControls(text))

    def test_own(self) -> None:
        """In what is the message's own, only what acts is written out."""
        self.assertEqual(
            oneLine("\U0001f468\u200d\U0001f469\x85"), "\U0001f468\u200d\U0001f469\\x{85}"
        )

    def test_word(self) -> None:
        """Nothing ends a word before its end, and it is no longer than it may be."""
        self.assertEqual(word('<a b>\t"\x1b\u2028', 50).split(), [word('<a b>\t"\x1b\u2028', 50)])
        self.assertEqual(word("a b@c", 50), "a\\x{20}b@c")
        self.assertEqual(word("abc", 2), "ab")

    def test_hasControls(self) -> None:
        """Controls, line ends and halves of characters; a joiner is none."""
        for character in "\0\t\n\x7f\x85\u2028\u2029\ud800":
            self.assertTrue(hasControls(f"a{character}"))
        self.assertFalse(hasControls("\u200d\u202e"))

    def test_octets(self) -> None:
        """What is clean can be written as UTF-8."""
        for character in BAD:
            self.assertNotIn(
                character.encode("utf-8", "surrogatepass"), cleaned(character).encode()
            )
