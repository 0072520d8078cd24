"""
The pictures of the pages in the documentation::

    python -m tests.integration.screenshots docs/pictures

Or, to look at all of them at three widths, in light and dark::

    python -m tests.integration.screenshots --all DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import random
import smtplib
import time

from tests.integration.browser import Browser
from tests.integration.support import until
from tests.integration.test_browser import BrowserCase, Scanner

#: A page's name, its path, and whether the documentation has it.
PAGES = (
    ("now", "/", True),
    ("queue", "/queue", False),
    ("message", "/message/{id}", False),
    ("search", "/search?q=friends.example", False),
    ("policies", "/policy", False),
    ("policy", "/policy/strict?at=9", True),
    ("unknown", "/message/1M8MZTAC60041", False),
)

#: What a scanner says of how many messages.
WORDS = ["calm"] * 6 + ["odd"] * 3 + ["spam"] * 2


class HonestScanner(Scanner):
    """
    One that means no harm.
    """

    said = "no action"


class Pictures(BrowserCase):
    """
    A server with an ordinary hour of mail.
    """

    scanner = HonestScanner

    def runTest(self) -> None:
        """Nothing by itself."""

    def take(self, directory: str, every: bool) -> None:
        """
        Write the pictures.
        """
        server = self.begin(self.config(self.users(self.directory(), alice="secret")))
        chance, number = random.Random(1), ""
        port = self.mailPort(server)
        for one in range(60):
            number = self._mail(port, chance, one) or number
        until(lambda: "retry" in server.log, "a delivery")
        browser = self.browser()
        if every:
            browser.get("/login")
            browser.picture(os.path.join(directory, "login.png"))
        browser.login("alice", "secret")
        for name, path, isShown in PAGES:
            if every:
                for width in (390, 820, 1440):
                    self._picture(
                        browser, f"{name}-{width}", path.format(id=number), directory, width
                    )
                browser.prefer("dark")
                self._picture(browser, f"{name}-dark", path.format(id=number), directory, 1000)
                browser.prefer("light")
            elif isShown:
                self._picture(browser, name, path, directory, 760)

    def _picture(self, browser: Browser, name: str, path: str, directory: str, width: int) -> None:
        browser.resize(width)
        browser.get(path)
        time.sleep(0.5)
        browser.picture(os.path.join(directory, f"{name}.png"), 760)

    def _mail(self, port: int, chance: random.Random, number: int) -> str:
        word = chance.choice(WORDS)
        people = ["anna@example.net", "ben@example.net", "open@example.net", "x@elsewhere.test"]
        with smtplib.SMTP("127.0.0.1", port, "mail.friends.example", timeout=30) as client:
            client.ehlo()
            prdr = " PRDR" if chance.random() < 0.5 else ""
            client.docmd(f"MAIL FROM:<writer-{number}@friends.example>{prdr}")
            for one in chance.sample(people, chance.randint(1, 3)):
                client.docmd(f"RCPT TO:<{one}>")
            code, _ = client.docmd("DATA")
            if code != 354:
                return ""
            client.send(f"Message-ID: <{number}@friends.example>\r\n\r\n{word}\r\n.\r\n")
            code, said = client.getreply()
            while code in (353,) or (b"message accepted" not in said and code == 250):
                code, said = client.getreply()
            client.close()
        return said.rpartition(b"id ")[2].decode() if code == 250 else ""


def main() -> None:
    """
    See the module.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    os.makedirs(arguments.directory, exist_ok=True)
    pictures = Pictures()
    try:
        pictures.take(os.path.abspath(arguments.directory), arguments.all)
    finally:
        pictures.doCleanups()


if __name__ == "__main__":
    main()
