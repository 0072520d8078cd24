"""
Sieve scripts made by chance, and messages for them: what people write, and what they
should not.
"""

from __future__ import annotations

import random
from email.message import EmailMessage

WORDS = ("lottery", "invoice", "hello", "Re:", "urgent", "friend", "list", "ü")

ADDRESSES = ("sender@client.test", "boss@example.org", "news@list.test", "me@example.net")

_REQUIRE = (
    'require ["reject", "fileinto", "envelope", "variables", "imap4flags", "vacation", "body",\n'
    '  "regex", "relational", "comparator-i;ascii-numeric", "copy", "mailbox", "enotify",'
    ' "date"];\n'
)


class Author:
    """
    Writes scripts.

    @param seed: another one makes others.
    @param local: whose they are: unlike all others'.
    """

    def __init__(self, seed: str, local: str) -> None:
        self._chance = random.Random(f"{seed} {local}")
        self._local = local

    def script(self) -> str:
        """
        One script; one in twenty has a fault.
        """
        body = "".join(self._command(0) for _ in range(self._chance.randint(1, 4)))
        text = _REQUIRE + body
        if self._chance.random() < 0.05:
            at = self._chance.randrange(len(text))
            text = text[:at] + self._chance.choice(("", "}", '"', "x;")) + text[at + 1 :]
        return text

    def _text(self) -> str:
        words = " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 5)))
        ends = ("", "!", "?", '\\"', "\nand a second line", " {${x}}", " \\\\ ")
        return f'"{words}{self._chance.choice(ends)}"'

    def _command(self, depth: int) -> str:
        if depth < 3 and self._chance.random() < 0.5:
            return self._branch(depth)
        local = self._local
        action = self._chance.choice(
            (
                *("discard", "discard", "reject TEXT", "reject TEXT", "reject TEXT", "keep"),
                *("stop", 'fileinto "Junk"', 'fileinto :create "New"', 'fileinto :copy "Junk"'),
                f'redirect "{local}@elsewhere.test"',
                f'redirect :copy "{local}@elsewhere.test"',
                *('addflag "\\\\Seen"', 'set "x" TEXT', 'reject "${x}"', "vacation TEXT"),
                *("# discard;\nkeep", "/* reject */ discard", "reject text:\nfirst\n..\n.\n"),
            )
        )
        return action.replace("TEXT", self._text()) + ";\n"

    def _branch(self, depth: int) -> str:
        found = f"if {self._test(0)} {{\n{self._command(depth + 1)}}}"
        if self._chance.random() < 0.4:
            found += f" elsif {self._test(0)} {{\n{self._command(depth + 1)}}}"
        if self._chance.random() < 0.5:
            found += f" else {{\n{self._command(depth + 1)}}}"
        return f"{found}\n"

    def _test(self, depth: int) -> str:
        choice = self._chance.choice
        if depth < 2 and self._chance.random() < 0.3:
            several = f"{self._test(depth + 1)}, {self._test(depth + 1)}"
            return choice(
                (f"anyof ({several})", f"allof ({several})", f"not {self._test(depth + 1)}")
            )
        word, address = choice(WORDS), choice(ADDRESSES)
        kind = choice((":is", ":contains", ":matches"))
        return choice(
            (
                f'header {kind} "Subject" "{word}"',
                f'header :matches ["Subject", "X-Kind"] "*{word}*"',
                f'header :regex "Subject" "(^|[a-z ])({word.lower()})"',
                f'address {kind} "From" "{address}"',
                f'address :domain :is ["To", "Cc"] "{address.partition("@")[2]}"',
                f'envelope {kind} "from" "{address}"',
                f'envelope :localpart :is "to" "{self._local}"',
                'exists ["X-Kind", "Subject"]',
                "size :over 100K",
                f'body :text :contains "{word}"',
                f'string {kind} "${{x}}" "{word}"',
                'header :count "ge" :comparator "i;ascii-numeric" "Subject" "1"',
                *("true", "false"),
            )
        )


def messages(seed: str, count: int) -> list[tuple[str, bytes]]:
    """
    @return: reverse paths, and messages with LF line ends.
    """
    chance = random.Random(seed)
    found = []
    for number in range(count):
        mail = EmailMessage()
        sender = chance.choice(ADDRESSES[:3])
        mail["From"] = chance.choice((sender, "boss@example.org"))
        mail["To"] = "me@example.net"
        mail["Subject"] = " ".join(chance.choices(WORDS, k=3))
        mail["Date"] = "Mon, 23 Nov 2026 12:00:00 +0000"
        mail["Message-ID"] = f"<{seed}-{number}@client.test>"
        if chance.random() < 0.3:
            mail["X-Kind"] = chance.choice(WORDS)
        size = 200_000 if chance.random() < 0.1 else 10
        mail.set_content(
            f"{chance.choice(WORDS)}\n" + "x" * 60 + "\n" + ("y" * 70 + "\n") * (size // 70)
        )
        found.append((sender, bytes(mail)))
    return found
