"""
The pages in a real browser: every page, with text that means harm in every field;
with and without scripts; with a long queue, with several processes, over a reload and
a stop.

Their widths are one in C{.ci/run}, and more by one command::

    DEFERRALS_WIDTHS=390,820,1440 python -m twisted.trial tests.integration.test_browser
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import smtplib
import socket
import socketserver
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from tests.crash.fill import fill
from tests.integration.browser import Browser, axe
from tests.integration.support import IntegrationCase, Server, cli, events, until
from tests.ports import freePort
from tests.tls import makeCertificate

#: The widths at which each page is looked at, in pixels.
WIDTHS = [int(one) for one in os.environ.get("DEFERRALS_WIDTHS", "390").split(",")]

#: What harms a page that takes it for more than text.
HOSTILE = "'><img src=x onerror=document.title=666><script>document.title=666</script>"

#: The same as the local part of an address.
LOCAL = f'"{HOSTILE}"'

#: What a hostile scanner says, by what stands in the message.
SCORES = {"calm": 1.2, "odd": 7.4, "spam": 19.0}

_CONFIG = """
hostname = "mx.example.net"
bounces = "dead"
{top}

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[web]
endpoint = "tcp:{web}:interface=127.0.0.1"
{more}

[deliveries.dead]
use = "smtp"
endpoint = "tcp:127.0.0.1:{hop}"
retry = "1h"

[policies.open]
envelope = "accept"

[[policies.strict.content]]
use = "rspamd"
url = "http://127.0.0.1:{rspamd}"
refuse_score = 15
mark_score = 6

[[recipients]]
match = "open@example.net"
policy = "open"
deliver = "dead"

[[recipients]]
match = "*@example.net"
policy = "strict"
deliver = {{ use = "discard" }}
"""


class Scanner(http.server.BaseHTTPRequestHandler):
    """
    One that answers as rspamd does, and means harm.
    """

    said = HOSTILE

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        score = next((one for word, one in SCORES.items() if word.encode() in body), 0.0)
        said = {
            "score": score,
            "required_score": 15,
            "action": self.said,
            "symbols": {self.said: {"name": self.said, "score": score}},
            "messages": {"smtp_message": self.said},
        }
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class NextHop(socketserver.StreamRequestHandler):
    """
    One that refuses for now, with harm in what it says.
    """

    def handle(self) -> None:
        self.wfile.write(b"220 hop.test ESMTP\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            said = f"451 4.3.0 {HOSTILE}" if verb == b"RCPT" else "250 hop.test"
            self.wfile.write(said.encode() + b"\r\n")


class Threaded(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True


class BrowserCase(IntegrationCase):
    """
    A server, and a browser.
    """

    scanner: type[Scanner] = Scanner

    def serve(self, handler: type[socketserver.BaseRequestHandler]) -> int:
        """
        @return: the port of somebody else's server.
        """
        server = Threaded(("127.0.0.1", freePort()), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return int(server.server_address[1])

    def config(self, more: str = "", top: str = "") -> str:
        self.web = freePort()
        self.root = f"http://127.0.0.1:{self.web}"
        hop, rspamd = self.serve(NextHop), self.serve(self.scanner)
        return _CONFIG.format(web=self.web, more=more, hop=hop, rspamd=rspamd, top=top)

    def users(self, directory: str, **passwords: str) -> str:
        """
        @return: the settings for users, of whom alice is an operator.
        """
        path = os.path.join(directory, "web.users")
        for name, password in passwords.items():
            done = cli("passwd", path, name, data=f"{password}\n".encode())
            assert done.returncode == 0, done.stderr
        return f'users = "{path}"\noperators = ["alice"]\n'

    def begin(self, config: str) -> Server:
        server = self.server(config, "--log-format", "json")
        until(lambda: "for web" in server.log, "the pages")
        server.process.ready(lambda: self.get("/readyz")[0] == 200, "mail is taken")
        return server

    def browser(self, width: int = 1280) -> Browser:
        browser = Browser(self.root, width)
        self.addCleanup(browser.close)
        return browser

    def get(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        """
        @return: status and content, or where it leads.
        """
        request = urllib.request.Request(self.root + path, data, headers)
        opener = urllib.request.build_opener(_Stay())
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("Location") or error.read().decode()
        except OSError:
            return 0, ""

    def mailPort(self, server: Server) -> int:
        """
        Where it takes mail.
        """
        return int(re.findall(r"listening on [^ ]*:(\d+) for smtp", server.log)[0])

    def send(self, server: Server, word: str, *recipients: str, prdr: bool = False) -> str:
        """
        A message of a client that means harm.

        @return: its id.
        """
        with smtplib.SMTP("127.0.0.1", self.mailPort(server), "c.test", timeout=30) as client:
            client.ehlo()
            client.docmd(f"MAIL FROM:<{LOCAL}@client.test>" + (" PRDR" if prdr else ""))
            for one in recipients:
                client.docmd(f"RCPT TO:<{one}>")
            client.docmd("DATA")
            client.send(f"Message-ID: <{HOSTILE}>\r\nSubject: {HOSTILE}\r\n\r\n{word}\r\n.\r\n")
            code, said = client.getreply()
            for _ in [*recipients, "final"] if code == 353 else ():
                _, said = client.getreply()
        found = re.search(rb"id ([0-9A-Z]{13})", said)
        assert found is not None, said
        return found[1].decode()


def _go(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


class _Stay(urllib.request.HTTPRedirectHandler):
    """
    Goes nowhere else.
    """

    def redirect_request(self, *args: Any) -> None:
        return None


class PageTests(BrowserCase):
    """
    Every page.
    """

    def setUp(self) -> None:
        self.axe = axe()

    def test_every(self) -> None:
        """
        With harm in each field: nothing of it runs, nothing is missing, nothing hangs
        over, and whoever cannot see, or has no mouse, can use it.
        """
        server = self.begin(self.config(self.users(self.directory(), alice="secret")))
        number = ""
        for word in SCORES:
            number = self.send(server, word, "open@example.net", f"{LOCAL}@example.net", prdr=True)
        until(lambda: "451 4.3.0" in server.log, "a delivery")
        browser = self.browser(WIDTHS[0])
        browser.get("/login")
        self.look(browser, "/login", "")
        browser.login("alice", "secret")
        for path, word in self.pages(number):
            browser.get(path)
            self.look(browser, path, word)

    def pages(self, number: str) -> Iterator[tuple[str, str]]:
        """
        Their paths, and what stands on each.
        """
        sought = urllib.parse.quote(f"{LOCAL}@client.test")
        yield "/", "client.test"
        yield "/queue", "document.title=666"
        yield f"/queue?to={urllib.parse.quote(HOSTILE)}&status=held", "None."
        yield f"/message/{number}", "rspamd: score 19"
        yield f"/search?q={sought}", "document.title=666"
        yield "/policy", "strict"
        yield "/policy/strict?at=7", "at 7"
        yield "/message/1M8MZTAC60041", "Nothing is known"
        yield "/queue?status=nonsense", "expected one of"

    def look(self, browser: Browser, path: str, word: str) -> None:
        self.assertIn(word, browser.text, path)
        self.assertNotIn("666", browser.driver.title)
        for width in WIDTHS:
            browser.resize(width)
            over = browser.run("return document.documentElement.scrollWidth - window.innerWidth")
            self.assertLessEqual(over, 0, f"{path} at {width}")
            for scheme in ("light", "dark") if width == WIDTHS[0] else ("light",):
                browser.prefer(scheme)
                self.assertEqual(browser.barriers(self.axe), [], f"{path} {width} {scheme}")
        isError = path.startswith(("/message/1M8MZTAC6", "/queue?status=n"))
        found = [one for one in browser.complaints() if not (isError and path in one)]
        self.assertEqual(found, [], path)

    def test_withoutScript(self) -> None:
        """All of it works without a script: to log in, and what operators do."""
        server = self.begin(self.config(self.users(self.directory(), alice="secret", bob="other")))
        number = self.send(server, "calm", "open@example.net")
        until(lambda: "451 4.3.0" in server.log, "a delivery")
        browser = self.browser()
        browser.script(False)
        browser.get("/queue?to=open@*")
        self.assertTrue(browser.path.startswith("/login?to="))
        browser.login("alice", "wrong")
        self.assertIn("not the password", browser.text)
        browser.get("/queue?to=open@*")
        browser.fill(user="alice", password="secret")
        browser.submit("main button[type=submit]")
        self.assertEqual(browser.path, "/queue?to=open@*")
        for verb in ("hold", "release", "retry"):
            browser.click(f"input[value='{number}']")
            browser.submit(f"button[formaction='/queue/{verb}']")
            self.assertIn("1 recipients:", browser.text)
            until(lambda isHeld=verb == "hold": ("held" in self.row(browser)) == isHeld, verb)
        browser.click("#f-all")
        browser.click("summary")
        browser.submit("button[formaction='/queue/remove']")
        self.assertIn("1 recipients: removed", browser.text)
        told = [one for one in events(server.log) if one.get("event") == "operator"]
        self.assertEqual([one["action"] for one in told], ["hold", "release", "retry", "remove"])
        self.assertEqual({one["user"] for one in told}, {"alice"})
        browser.submit("header button")
        self.assertIn("Password", browser.text)
        browser.login("bob", "other")
        browser.get("/queue")
        self.assertEqual(browser.all("button[formaction]"), [])

    def row(self, browser: Browser) -> str:
        browser.get("/queue?to=open@*")
        return browser.find("main table:last-of-type tbody tr").text if browser.all("tr") else ""

    def test_live(self) -> None:
        """A transaction is seen when it happens; a stop does not wait for those who look."""
        server = self.begin(self.config())
        browser = self.browser()
        browser.get("/")
        until(lambda: "follows what happens" in browser.text, "it listens")
        number = self.send(server, "spam", "open@example.net")
        until(lambda: browser.all(f"tr[data-id='{number}']"), "the transaction")
        row = browser.find(f"tr[data-id='{number}']")
        self.assertIn("document.title=666", row.text)
        self.assertNotIn("666", browser.driver.title)
        self.assertEqual(browser.complaints(), [])
        server.stop()  # at once, and not after the ten minutes of a listener

    def test_longQueue(self) -> None:
        """A hundred thousand recipients: a page is as small as ever, and mail is taken."""
        server = self.begin(self.config())
        server.stop()
        fill(os.path.join(server.directory, "state", "spool"), 100_000, "x.example", "dead", 1e9)
        server.start()
        until(lambda: self.get("/readyz")[0] == 200, "mail is taken")
        browser = self.browser()
        path, seen = "/queue", set[str]()
        for _ in range(3):
            html = browser.get(path)
            self.assertLess(len(html), 200_000)
            links = {one.text for one in browser.all("main td a.id")}
            self.assertEqual((len(links), links & seen), (50, set()))
            seen |= links
            path = browser.find("a[rel=next]").get_attribute("href").removeprefix(self.root)
        self.assertRegex(browser.get("/queue"), "100,[0-9]{3} messages")
        for query in ("status=held", "to=nobody@*", "older=9999d"):
            self.assertIn("further on", browser.get(f"/queue?{query}"))
        self.send(server, "calm", "postmaster@example.net")


class ProcessTests(BrowserCase):
    """
    What processes there are, and who is let in.
    """

    def test_stranger(self) -> None:
        """A stranger is shown nothing, from anywhere; nor is one who names another host."""
        self.begin(self.config(self.users(self.directory(), alice="secret")))
        for path in ("/", "/queue", "/message/1M8MZTAC60041", "/search?q=x", "/policy/strict"):
            code, where = self.get(path)
            self.assertEqual((code, where[:10]), (303, "/login?to="), path)
            self.assertEqual(self.get(path, Host="evil.test")[0], 421, path)
        self.assertEqual(self.get("/events")[0], 401)
        for verb in ("retry", "hold", "release", "remove"):
            self.assertEqual(self.get(f"/queue/{verb}", b"id=1M8MZTAC60041&csrf=")[0], 403)
        codes = [self.get("/login", b"user=alice&password=%d" % one)[0] for one in range(12)]
        self.assertEqual((codes[0], codes[-1]), (403, 429))

    def test_workers(self) -> None:
        """Of two processes the pages show one server; who is stopped is named."""
        config = self.config(self.users(self.directory(), alice="secret"), "workers = 2\n")
        server = self.begin(config)
        until(lambda: server.log.count("is running") == 2, "both take mail")
        numbers = [self.send(server, word, "open@example.net") for word in [*SCORES] * 3]
        browser = self.browser()
        browser.login("alice", "secret")
        until(lambda: "9 messages" in browser.get("/queue"), "all are there")
        links = {one.text for one in browser.all("main td a.id")}
        self.assertEqual(links, set(numbers))
        browser.get("/search?q=client.test")
        self.assertEqual(
            {one.text for one in browser.all("section:nth-of-type(2) a.id")}, set(numbers)
        )
        for number in numbers:
            browser.get(f"/message/{number}")
            self.assertIn("EHLO", browser.text)
        browser.get("/queue?to=open@*")
        browser.click("#f-all")
        browser.submit("button[formaction='/queue/hold']")
        self.assertIn("9 recipients: held", browser.text)
        until(lambda: "9" in self.funnel(browser), "the parent knows it")
        pid = json.loads(cli("status", "--json", "--config", server.path).stdout)["workers"][1][
            "pid"
        ]
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(_go, pid)
        browser.get("/")
        self.assertIn("Worker 1 does not answer", browser.text)

    def funnel(self, browser: Browser) -> str:
        browser.get("/")
        return browser.find(".figures tbody tr").text

    def test_reload(self) -> None:
        """Other users, and other hosts, from a reload on."""
        directory = self.directory()
        config = self.config(self.users(directory, alice="secret"))
        server = self.begin(config)
        browser = self.browser()
        browser.login("alice", "secret")
        self.assertEqual(browser.path, "/")
        other = os.path.join(directory, "other")
        cli("passwd", other, "carol", data=b"word\n")
        with open(server.path, "w", encoding="utf-8") as file:
            file.write(config.replace(os.path.join(directory, "web.users"), other))
        done = cli("reload", "--config", server.path)
        self.assertEqual(done.returncode, 0, done.stderr)
        browser.get("/queue")
        self.assertTrue(browser.path.startswith("/login"))
        browser.login("carol", "word")
        self.assertEqual(browser.path, "/")
        with open(server.path, "w", encoding="utf-8") as file:
            file.write(config.replace("[web]", '[web]\nhosts = ["pages.test"]'))
        self.assertEqual(cli("reload", "--config", server.path).returncode, 0)
        self.assertEqual(self.get("/queue")[0], 421)
        self.assertEqual(self.get("/queue", Host="pages.test")[0], 303)

    def test_secure(self) -> None:
        """Over TLS the cookie goes over nothing else."""
        directory = self.directory()
        certificate, key = makeCertificate(directory, "localhost")
        more = f'certificate = "{certificate}"\nkey = "{key}"\n'
        config = self.config(more + self.users(directory, alice="secret"))
        server = self.server(config)
        until(lambda: "for web" in server.log, "the pages")
        self.root = f"https://localhost:{self.web}"
        browser = self.browser()
        until(lambda: "Password" in browser.get("/login"), "mail is taken")
        browser.login("alice", "secret")
        self.assertEqual(browser.path, "/")
        (cookie,) = browser.driver.get_cookies()
        self.assertEqual(
            (cookie["name"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"]),
            ("deferrals", True, True, "Strict"),
        )

    def test_slow(self) -> None:
        """Those who listen and do not read take nothing away from others."""
        server = self.begin(self.config())
        silent = [socket.create_connection(("127.0.0.1", self.web)) for _ in range(18)]
        for one in silent:
            self.addCleanup(one.close)
            one.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(1.5)  # a second takes so many connections
        self.assertEqual(self.get("/policy")[0], 200)
        self.send(server, "calm", "open@example.net")
        server.stop()
