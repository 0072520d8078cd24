"""
The commands that the documentation shows, run as they stand; but for directories,
ports and ids.  Installing is for C{.ci/debian} and C{.ci/readme}.
"""

from __future__ import annotations

import os
import re
import shutil

from tests.integration.stores import Dovecot
from tests.integration.support import (
    ROOT,
    IntegrationCase,
    Server,
    cli,
    program,
    run,
    takesAll,
)
from tests.ports import freePort
from tests.test_pages import Block, blocks

#: Commands that have nothing to find here, or something to complain of: status 1 or 2.
UNSUCCESSFUL = (
    ["explain"],  # nothing may be known of the example
    ["queue", "rescue", "show"],
    ["queue", "rescue", "restore"],
    ["queue", "rescue", "remove"],
    ["queue", "export"],
    ["status", "--check"],
)

#: A message waits, since there is no next hop.
_CONFIG = takesAll(
    '"dead"',
    match="*@example.org",
    tables='[deliveries.dead]\nuse = "smtp"\nendpoint = "tcp:127.0.0.1:1"',
)

_DOVECOT = """
mail_location = maildir:~/Maildir
ssl = no
protocols = lmtp
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=/tmp/%u
}
"""


class CommandTests(IntegrationCase):
    """
    Commands for a running server.
    """

    def setUp(self) -> None:
        self.mx = self.server(_CONFIG)
        log = os.path.join(self.mx.directory, "mx.log")
        self.ids = [self.send() for _ in range(2)]
        shutil.copy(self.mx.process.log, log)

    def send(self) -> str:
        """
        A message that waits.
        """
        sent = cli(
            *("send", "--to", f"127.0.0.1:{self.mx.port}", "--from", "newsletter@client.example"),
            *("--rcpt", "b@example.org", "--sample", "plain"),
        )
        found = re.search(r"id (\w+)", sent.stdout)
        assert found, sent.stdout + sent.stderr
        return found[1]

    def run_(self, block: Block, words: list[str]) -> None:
        """
        Run one, in the server's directory.
        """
        given = [re.sub("1M84B9SJQ005Q", self.ids[-1], word) for word in words[1:]]
        given = [word.replace("/backup/queue", "backup") for word in given]
        given = [word.replace("/var/log/deferrals/mail.log", "mx.log") for word in given]
        given = [word.replace("/etc/deferrals/passwords", "passwords") for word in given]
        given = given[: given.index(">")] if ">" in given else given
        given = [word.replace("/etc/deferrals/mx.toml", self.mx.path) for word in given]
        if given[0] in ("queue", "status", "explain") and "--config" not in given:
            given += ["--config", self.mx.path]
        done = cli(*given, cwd=self.mx.directory, data=b"secret\n")
        expected = {0, 1, 2} if any(given[: len(x)] == x for x in UNSUCCESSFUL) else {0}
        said = f"{block}: {given}\n{done.stdout}{done.stderr}"
        self.assertIn(done.returncode, expected, said)
        self.assertNotIn("Traceback", done.stderr)

    def test_operations(self) -> None:
        """Those for operators: looking, changing, backing up."""
        count = 0
        for block in blocks("sh"):
            if block.page not in ("docs/operations.md", "docs/service.md", "docs/wire.md"):
                continue
            shutil.rmtree(os.path.join(self.mx.directory, "backup"), True)
            for words in block.commands():
                if words[0] == "deferrals" and words[1] != "init":
                    self.run_(block, words)
                    count += 1
                    if words[1:3] == ["queue", "remove"]:
                        self.ids.pop()
        self.assertGreater(count, 20)


class DovecotTests(IntegrationCase):
    """
    C{docs/dovecot.md}, from its beginning to its end.
    """

    def test_page(self) -> None:
        """What it says is done, with a Dovecot; both answers come, and the message is there."""
        dovecot = Dovecot(self, users=["postmaster@example.net"])
        directory, port = self.directory(), freePort()
        server: Server | None = None
        changes = {"unix:/run/dovecot/lmtp": f"unix:{dovecot.socket}", "127.0.0.1:2525": ""}
        check = next(b.text for b in blocks("toml") if b.page == "docs/dovecot.md")
        for block in blocks("sh"):
            if block.page != "docs/dovecot.md":
                continue
            for words in block.commands():
                changes["127.0.0.1:2525"] = f"127.0.0.1:{server.port if server else port}"
                given = [changes.get(word, word) for word in words]
                if words[0] == "twistd":
                    server = self.begin(os.path.join(directory, "mx.toml"))
                    continue
                done = cli(*given[1:], cwd=directory)
                self.assertEqual(done.returncode, 1 if words[1] == "send" else 0, done.stderr)
                if words[1] == "init":
                    self.change(os.path.join(directory, "mx.toml"), check, dovecot.socket)
                if words[1] == "send":
                    self.assertRegex(done.stdout, r"postmaster@example.net +250")
                    self.assertRegex(done.stdout, r"fine@example.net +550  5.7.1")
        dovecot.arrived("postmaster@example.net")
        assert server is not None
        done = cli(
            *("send", "--to", f"127.0.0.1:{server.port}", "--from", "a@client.example"),
            *("--rcpt", "stranger@example.net", "--sample", "plain"),
        )
        self.assertRegex(done.stdout, r"stranger@example.net +550  5.1.1")

    def change(self, path: str, check: str, socket: str) -> None:
        """
        The changes that the page asks for.
        """
        with open(path, encoding="utf-8") as file:
            text = file.read()
        check = check.replace("/run/dovecot/lmtp", socket)
        text = text.replace('policy = "strict"\n', f'policy = "strict"\n{check}')
        text = text.replace('"tcp:25"', '"tcp:0:interface=127.0.0.1"')
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def begin(self, path: str) -> Server:
        with open(path, encoding="utf-8") as file:
            return self.server(file.read())

    def test_sockets(self) -> None:
        """Dovecot takes the lines of its configuration that pages show."""
        doveconf = program("doveconf", "/usr/bin/doveconf")
        found = blocks("dovecot")
        pages = {f"docs/{name}.md" for name in ("dovecot", "submission", "tables")}
        self.assertEqual({one.page for one in found}, pages)
        path = os.path.join(self.directory(), "dovecot.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_DOVECOT + "".join(one.text for one in found))
        done = run([doveconf, "-n", "-c", path])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("user = deferrals", done.stdout)


class ServiceTests(IntegrationCase):
    """
    C{contrib/systemd} and C{contrib/debian}: what systemd and logrotate say.
    """

    def copied(self, *names: str) -> str:
        """
        The units, with programs that are there.
        """
        directory = self.directory()
        true = program("true")
        for name in names:
            with open(os.path.join(ROOT, "contrib", "systemd", name), encoding="utf-8") as file:
                text = re.sub(r"/opt/deferrals/bin/\w+", true, file.read())
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        return directory

    def test_units(self) -> None:
        """systemd finds no fault with them."""
        directory = self.copied("deferrals.service", "deferrals.socket")
        units = [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
        done = run([program("systemd-analyze"), "verify", "--man=no", *units])
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_exposure(self) -> None:
        """An intruder would have little: the figure is the one of the page."""
        unit = os.path.join(self.copied("deferrals.service"), "deferrals.service")
        command = [program("systemd-analyze"), "security", "--offline=yes", "--threshold=20", unit]
        done = run([*command, "--no-pager"])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = re.search(r"exposure level for deferrals.service: ([\d.]+)", done.stdout)
        assert found, done.stdout
        with open(os.path.join(ROOT, "docs", "service.md"), encoding="utf-8") as file:
            self.assertIn(f"gives it {found[1]} of 10", file.read())

    def test_logrotate(self) -> None:
        """logrotate reads its configuration; rotating is for C{.ci/debian}."""
        logrotate = program("logrotate", "/usr/sbin/logrotate")
        directory = self.directory()
        path = os.path.join(directory, "logrotate")
        with open(os.path.join(ROOT, "contrib", "debian", "logrotate"), encoding="utf-8") as file:
            text = file.read().replace("su deferrals deferrals", "su root root")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = run([logrotate, "-d", "-s", os.path.join(directory, "state"), path])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("error:", done.stderr)
