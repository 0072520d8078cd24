"""
What the documentation shows in blocks: each configuration is one, each command is
one of the command line; all else is marked as what is said.  The commands are run by
C{tests/integration/test_pages.py}, and by C{.ci}.
"""

from __future__ import annotations

import configparser
import glob
import inspect
import io
import json
import os
import re
import shlex
import sqlite3
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

import attrs
import yaml
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals import client
from deferrals.app.service import checkConfig
from deferrals.cli import parser
from deferrals.client import Answer
from deferrals.config.tables import load
from deferrals.model import reply, verdict
from deferrals.plugins.finding import stagePlugins
from deferrals.tap import Options
from deferrals.testing import makeMessage
from tests import signatures
from tests.tls import makeCertificate

ROOT = os.path.dirname(os.path.dirname(__file__))

#: What runs the blocks of each language, but for what is said here itself.
ELSEWHERE = {
    "text": "what is said",
    "console": "integration.test_embedding, integration.test_server",
    "dovecot": "integration.test_pages",
    "sieve": "integration.test_recipes",
}

#: What runs the Python of each page.
PYTHON = {
    "docs/embedding.md": "test_docs",
    "docs/from-asyncio.md": "integration.test_asyncio",
    "docs/sending.md": "here",
    "docs/stage-api.md": "here",
    "docs/testing-a-stage.md": "test_docs",
    "docs/upstream.md": "here",
    "docs/writing-a-stage.md": "test_docs",
}

#: Programs beside our own that a page may name, and what runs them.
PROGRAMS = {
    "python": ".ci/run",
    "python3": ".ci/run",
    "pip": ".ci/run",
    "build": ".ci/debian",
    "apt": ".ci/debian, which takes dpkg",
    "systemctl": ".ci/debian",
    "rm": "test_recipes",
    "sqlite3": "test_recipes",
    "mv": "test_recipes",
}


#: What is not on this machine, and what stands in for it.
SUBSTITUTES = {
    "/etc/letsencrypt/live/mx.example.net/fullchain.pem": "mail.pem",
    "/etc/letsencrypt/live/mx.example.net/privkey.pem": "mail.pem",
    "systemd:domain=INET:name=mx": "tcp:2525",  # integration.test_process has the socket
}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@attrs.frozen
class Block:
    """
    A fenced block.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """
        The words of each command, without what only a shell needs.
        """
        for line in self.text.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def pages() -> list[str]:
    found = glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True)
    return sorted([*found, *(os.path.join(ROOT, f"{n}.md") for n in ("README", "CONTRIBUTING"))])


def blocks(*languages: str) -> list[Block]:
    """
    All of them, in these languages.
    """
    found = []
    for path in pages():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 1
            block = Block(os.path.relpath(path, ROOT), line, match[1], match[2])
            if block.language in languages or not languages:
                found.append(block)
    return found


def inline(value: Any) -> str:
    """
    A value in TOML.
    """
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def completed(table: dict[str, Any]) -> dict[str, Any]:
    """
    A part of a configuration with what it leaves to the rest.
    """
    table = dict(table)
    for key, place in (("deliver", "recipients"), ("check", "recipients"), ("content", "policies")):
        if key in table:
            one = {key: table.pop(key)}
            rule = {"match": "*@example.net", "policy": "a", "deliver": {"use": "discard"}, **one}
            table[place] = [rule] if place == "recipients" else {"a": one}
    table.setdefault("listen", [{"endpoint": "tcp:2525"}])
    table.setdefault("bounces", "none")
    policies, deliveries = table.setdefault("policies", {}), table.setdefault("deliveries", {})
    for rule in table.get("recipients", ()):
        policies.setdefault(rule["policy"], {"envelope": "accept"})
        if isinstance(rule.get("deliver"), str):
            deliveries.setdefault(rule["deliver"], {"use": "discard"})
    if table["bounces"] != "none":
        deliveries.setdefault(table["bounces"], {"use": "mx"})
    return table


class PagesTests(SynchronousTestCase):
    """
    Every block.
    """

    def test_languages(self) -> None:
        """Each block says what it is, and there is what runs it."""
        here = {"toml", "sh", "sql", "yaml", "json", "ini", "python", "{toctree}"}
        for block in blocks():
            self.assertIn(block.language, here | ELSEWHERE.keys(), str(block))
        self.assertEqual({block.page for block in blocks("python")}, PYTHON.keys())

    def directory(self) -> str:
        """
        With the files that the configurations name.
        """
        directory = self.mktemp()
        os.mkdir(directory)
        certificate, key = makeCertificate(directory)
        both = ""
        for path in (certificate, key):
            with open(path, encoding="ascii") as file:
                both += file.read()
        for name in ("mail.pem", "mx.pem", "smarthost.password"):
            with open(os.path.join(directory, name), "w", encoding="ascii") as file:
                file.write(both)
        for name, text in (("metrics.token", "secret\n"), ("web.users", "")):
            with open(os.path.join(directory, name), "w", encoding="ascii") as file:
                file.write(text)
        for name in ("example.net.202611.pem", "example.net.202611-ed25519.pem"):
            with open(os.path.join(directory, name), "wb") as file_:
                file_.write(signatures.pem("ed25519" if "ed25519" in name else "rsa"))
        return directory

    def test_configurations(self) -> None:
        """Each configuration, and each part of one, is taken by check-config."""
        directory = self.directory()
        with open(os.path.join(directory, "srs.secret"), "w", opener=_private) as file:
            file.write("a secret of the pages\n")
        with open(os.path.join(directory, "database-password"), "w", opener=_private) as file:
            file.write("a password of the pages\n")
        for block in blocks("toml"):
            if '"quiet-hours"' in block.text:
                continue  # integration.test_server installs it
            text = block.text
            for there, here in SUBSTITUTES.items():
                text = text.replace(there, here)
            table = completed(tomllib.loads(text))
            path = os.path.join(directory, str(block).replace("/", "-"))
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{key} = {inline(one)}\n" for key, one in table.items())
            checkConfig(load(path, stagePlugins()), Clock())

    def test_commands(self) -> None:
        """Each command is one that there is, with options that there are."""
        ours = 0
        for block in blocks("sh"):
            for words in block.commands():
                words = words[: words.index(">")] if ">" in words else words
                words = words[1:] if "=" in words[0] else words  # a variable in front
                name = os.path.basename(words[0])
                if name == "deferrals":
                    parser().parse_args(words[1:])
                    ours += 1
                elif name == "twistd":
                    self.twistd(words[1:])
                else:
                    self.assertIn(name, PROGRAMS, str(block))
        self.assertGreater(ours, 20)

    def twistd(self, words: list[str]) -> None:
        known = {f"--{name}" for name in [*Options().synonyms, "help-auth"]}
        for word in words[words.index("deferrals") + 1 :]:
            if word.startswith("--"):
                self.assertIn(word.partition("=")[0], known)

    def test_stageAPI(self) -> None:
        """The pieces of the page for authors of stages run as they stand."""
        names: dict[str, Any] = {**vars(verdict), **vars(reply)}
        for block in blocks("python"):
            if block.page == "docs/stage-api.md":
                exec(block.text, names)
        mail = makeMessage(b"Subject: hello\r\n\r\ntext\r\n")
        self.assertEqual(names["subject"](mail), "hello")
        self.assertEqual(len(names["octets"](mail)), mail.size)
        self.assertEqual(names["NO"].reply.code, 550)
        self.assertTrue(names["MARKED"].marks.junk)

    def python(self, page: str, names: dict[str, Any]) -> str:
        """
        Run what a page has of Python.

        @return: what it printed.
        """
        out = io.StringIO()
        with redirect_stdout(out):
            for block in blocks("python"):
                if block.page == page:
                    exec(block.text, names)
        return out.getvalue()

    def test_sending(self) -> None:
        """The call of the page on sending is one that sendMessage takes."""
        names: dict[str, Any] = {"__name__": "page"}
        self.python("docs/sending.md", names)
        calls: list[inspect.BoundArguments] = []
        answer = Answer("you@example.net", reply.R250_CONTENT, "final")

        async def send(*arguments: Any, **more: Any) -> Any:
            calls.append(inspect.signature(client.sendMessage).bind(*arguments, **more))
            return mock.Mock(answers=[answer])

        names.update(sendMessage=send, clientEndpoint=lambda *_: None)
        names["open"] = lambda *_: io.BytesIO(b"Subject: x\n\ntext\n")
        out = io.StringIO()
        with redirect_stdout(out):
            self.successResultOf(ensureDeferred(names["main"](None)))
        self.assertTrue(out.getvalue().startswith("you@example.net 250 "))
        self.assertEqual(calls[0].arguments["security"], "verified")

    def test_upstream(self) -> None:
        """The case for upstream runs, and a wrong name is refused."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pyOpenSSL's, of X509 objects
            printed = self.python("docs/upstream.md", {"__name__": "page"})
        version, *lines = printed.splitlines()
        self.flushLoggedErrors()
        self.assertEqual(len(lines), 4, version)
        self.assertRegex(lines[0], "another name +refused")

    def test_others(self) -> None:
        """What is in other languages can be read."""
        for block in blocks("sql"):
            sqlite3.connect(":memory:").executescript(block.text)
        for block in blocks("yaml"):
            yaml.safe_load(block.text)
        for block in blocks("json"):
            json.loads(block.text)
        for block in blocks("ini"):
            configparser.ConfigParser(strict=False).read_string(block.text)
