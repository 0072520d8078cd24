r"""
Text from outside, for people: what is shown in a log, at a terminal, in a trace
field, in a notification or in a reply goes through L{cleaned}, and nothing in it
can act, hide or turn the text around it.

A character that is taken out stays visible as C{\x{202E}}, its number in hex:
that is how RFC 6533 §3 writes a character in an address, so a program can still
read a notification's Final-Recipient.
"""

from __future__ import annotations

import re

from deferrals.model.characters import UNFIT

#: What ends a line for some program, or ends what a terminal shows (C0, DEL, C1,
#: U+2028, U+2029); and halves of characters, which have no octets.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"

#: What no address has either, and what else has no shape of its own (Unicode's
#: Default_Ignorable_Code_Point, without the variation selectors that emoji need):
#: it joins, hides, or is blank.
_HIDDEN = (
    f"{UNFIT}\u034f\u115f\u1160\u17b4\u17b5\u200c\u200d\u3164\uffa0\ufff0-\ufff8"
    "\U000e0080-\U000e0fff"
)

_CONTROL = re.compile(f"[{_CONTROLS}]")
_UNSEEN = re.compile(f"[{_HIDDEN}]")

#: What stands between the words of a line.
_BETWEEN = re.compile(r"[\s<>\"]")

#: What is a blank with another name.
_BLANKS = "\t\n\v\f\r"


def hasControls(text: str) -> bool:
    """
    Whether there is a character in it that some program takes for the end of a
    line, or for a command.
    """
    return not _isPlain(text) and _CONTROL.search(text) is not None


def cleaned(text: str) -> str:
    """
    One line of text for people: characters that act or hide are written out, and
    what is a tab or an end of line becomes a blank.
    """
    # Nearly all text is plain, and much of it is logged: nothing more is called for it.
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_visible, text)


def word(text: str, most: int) -> str:
    """
    Text from outside as one word of a line: nothing in it can be taken for the
    words behind it.

    @param most: so many characters of it are kept.
    """
    return cleaned(_BETWEEN.sub(_written, text[:most]))


def oneLine(text: str) -> str:
    """
    Text that is the message's own, such as its Subject: one line of it, in which
    joined emoji stay joined.
    """
    return text if _isPlain(text) else _CONTROL.sub(_visible, text)


def cleanedLines(text: str) -> list[str]:
    """
    The same for a text whose line feeds are meant.
    """
    if text.isascii() and text.isprintable():
        return [text]
    return [cleaned(line) for line in text.split("\n")]


def _isPlain(text: str) -> bool:
    """
    Whether it is what nearly all text is; this costs next to nothing.
    """
    return text.isascii() and text.isprintable()


def _visible(match: re.Match[str]) -> str:
    return " " if match[0] in _BLANKS else _written(match)


def _written(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):02X}}}"
