"""
What monitoring sees of a real server: the numbers of a known run, with a real
Prometheus, its rules and its dashboard; and scrapers that mean no good.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import re
import signal
import smtplib
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from deferrals.stages.content.match.stage import GTUBE
from tests.integration.support import (
    CONFIG,
    ROOT,
    IntegrationCase,
    Server,
    events,
    path,
    program,
    until,
)
from tests.ports import freePort
from tests.tls import makeCertificate

CONTRIB = os.path.join(ROOT, "contrib")


def get(
    port: int, where: str, secure: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, str]:
    """
    @return: status and content.
    """
    there = "http://127.0.0.1" if secure is None else "https://localhost"
    request = urllib.request.Request(f"{there}:{port}{where}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=secure) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


#: The policies of C{CONFIG}, by local part; others do not exist.
POLICIES = {
    "postmaster": "open",
    "fighter": "spam",
    "boxer": "spam",
    "waiter": "later",
    "reader": "virus",
}

LISTENER = "tcp:0:interface=127.0.0.1"


class Books:
    """
    What clients have done and seen, and what each recipient says by its policy
    (a plain sender with recipients that differ does not see that): only this is
    counted here.

    @ivar counts: how often each is to be found, by name and labels.
    @ivar transactions: how many were begun.
    """

    def __init__(self, chance: random.Random, port: int) -> None:
        self._chance = chance
        self._port = port
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.transactions = 0

    def source(self, messages: int) -> None:
        """
        Postfix's own sender: a session for each message.
        """
        subprocess.run(
            [
                *(program("smtp-source", "/usr/sbin/smtp-source"), "-s", "4", "-l", "2000"),
                *("-m", str(messages), "-f", "source@client.test"),
                *("-t", "postmaster@example.net", f"127.0.0.1:{self._port}"),
            ],
            check=True,
        )
        self.counts["sessions", LISTENER, "mail"] += messages
        self.counts["verdicts", "envelope", "open", "250"] += messages
        self.counts["deliveries", "maildir", "delivered"] += messages
        self.transactions += messages

    def session(self, number: int) -> None:
        """
        A client that does some of what clients do.
        """
        client = smtplib.SMTP("127.0.0.1", self._port, "c.test")
        client.ehlo()
        count = self._chance.choice((0, 0, 1, 1, 2, 3))
        for each in range(count):
            self._transaction(client, f"sender-{number}-{each}@client.test")
        self.counts["sessions", LISTENER, "mail" if count else "none"] += 1
        if self._chance.random() < 0.5:
            client.quit()
        else:
            client.close()

    def _transaction(self, client: smtplib.SMTP, sender: str) -> None:
        isPRDR = self._chance.random() < 0.4
        code, _ = client.docmd(f"MAIL FROM:<{sender}>{' PRDR' if isPRDR else ''}")
        assert code == 250
        self.transactions += 1
        found = [one for one in self._someone() if self._rcpt(client, one)]
        end = self._chance.random()
        if end < 0.15 or not found:
            client.docmd("RSET")
        else:
            self._data(client, found, self._chance.random() < 0.4)

    def _someone(self) -> list[str]:
        names = [*POLICIES, "no-such-one"]
        return self._chance.sample(names, self._chance.randint(1, 4))

    def _rcpt(self, client: smtplib.SMTP, local: str) -> bool:
        domain = "example.net" if local in POLICIES else "example.org"
        code, _ = client.docmd(f"RCPT TO:<{local}@{domain}>")
        if code >= 400:
            self.counts["verdicts", "envelope", "", str(code)] += 1
        elif POLICIES[local] == "open":
            self.counts["verdicts", "envelope", "open", "250"] += 1
        return code < 400

    def _data(self, client: smtplib.SMTP, found: list[str], isSpam: bool) -> None:
        client.docmd("DATA")
        text = GTUBE if isSpam else "hello"
        client.send(f"Subject: x\r\n\r\n{text}\r\n.\r\n")
        code, _ = client.getreply()
        if code == 353:
            codes = [client.getreply()[0] for _ in found]
            client.getreply()
        else:
            codes = [code] * len(found)
        for local, one in zip(found, codes, strict=True):
            policy = POLICIES[local]
            if policy != "open":
                own = (
                    "450" if policy == "later" else "550" if isSpam and policy == "spam" else "250"
                )
                assert code != 353 or str(one) == own, (local, one)
                self.counts["verdicts", "content", policy, own] += 1
            if one == 250:
                self.counts["deliveries", "maildir", "delivered"] += 1


class WatchedCase(IntegrationCase):
    """
    C{[web]} of a server.
    """

    def watched(self, more: str = "", config: str = CONFIG) -> tuple[Server, int]:
        """
        A server, and its port for monitoring.
        """
        port = freePort()
        web = f'[web]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{more}'
        server = self.server(config + web, "--log-format", "json")
        until(lambda: "for web" in server.log, "the port for monitoring")
        until(lambda: get(port, "/readyz")[0] == 200, "mail is taken")
        return server, port

    def samples(self, port: int, name: str) -> dict[tuple[str, ...], float]:
        """
        Of one metric, by its labels in the order of their names.
        """
        _, text = get(port, "/metrics")
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def status(self, server: Server, *options: str) -> subprocess.CompletedProcess[str]:
        """
        C{deferrals status}.
        """
        return subprocess.run(
            [sys.executable, "-m", "deferrals.cli", "status", "--config", server.path, *options],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
            check=False,
        )


class MonitoringTests(WatchedCase):
    """
    What is counted, who may see it, and what Prometheus makes of it.
    """

    def run_(self, server: Server) -> None:
        """
        Twelve sessions with mail, and one without.
        """
        for local, content in [
            *[("postmaster", "hello")] * 5,
            *[("fighter", "hello")] * 3,
            *[("fighter", GTUBE)] * 2,
            ("waiter", "hello"),
            ("nobody@example.org", "hello"),
        ]:
            recipient = local if "@" in local else f"{local}@example.net"
            with smtplib.SMTP("127.0.0.1", server.port, "c.test") as client:
                try:
                    client.sendmail("me@client.test", [recipient], f"Subject: x\r\n\r\n{content}")
                except smtplib.SMTPException:
                    continue
        with smtplib.SMTP("127.0.0.1", server.port, "c.test"):
            pass

    def logged(self, server: Server, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if line[:1] == "{"]
        return [line for line in lines if line.get("event") == event]

    def test_counting(self) -> None:
        """
        Sessions, verdicts and deliveries of random traffic are what its clients have
        seen: in the metrics, in the status, and in the log.
        """
        seed = int(os.environ.get("DEFERRALS_SEED", "29"))
        server, port = self.watched()
        books = Books(random.Random(seed), server.port)
        for number in range(60):
            books.session(number)
        books.source(20)
        counted = Counter(books.counts)

        def found() -> Counter[tuple[str, ...]]:
            return Counter({key: count for key, count in self.counted(port).items() if count})

        until(lambda: found() == counted, f"what clients have seen (seed {seed}): {counted}")
        self.assertGreater(len(counted), 8)
        inWords = {" ".join(filter(None, key)): count for key, count in counted.items()}
        self.assertEqual(self.shown(server), inWords)
        # The log has a line for each session without mail, and the transactions of others.
        logged = {key: n for key, n in counted.items() if key != ("sessions", LISTENER, "mail")}
        self.assertEqual(self.inLog(server), logged)
        files = sum(len(server.mail(local)) for local in POLICIES)
        self.assertEqual(files, counted["deliveries", "maildir", "delivered"])
        started = sum(self.samples(port, "deferrals_transactions_total").values())
        self.assertEqual(started, books.transactions)
        self.assertEqual(len(self.logged(server, "transaction")), books.transactions)

    def counted(self, port: int) -> dict[tuple[str, ...], int]:
        """
        What the metrics say.
        """
        # Labels are in the order of their names.
        verdicts = self.samples(port, "deferrals_verdicts_total")
        found = {("verdicts", *reversed(key)): int(count) for key, count in verdicts.items()}
        for name in ("sessions", "deliveries"):
            for key, count in self.samples(port, f"deferrals_{name}_total").items():
                found[name, *key] = int(count)
        return found

    def shown(self, server: Server) -> Counter[str]:
        """
        What the status says.
        """
        counters = json.loads(self.status(server, "--json").stdout)["counters"]
        return Counter(
            {
                f"{name} {kind}": count
                for name in ("sessions", "verdicts", "deliveries")
                for kind, count in counters[name].items()
            }
        )

    def inLog(self, server: Server) -> Counter[tuple[str, ...]]:
        """
        What the log says.
        """
        found: Counter[tuple[str, ...]] = Counter()
        for one in events(server.log):
            if one.get("event") == "recipient":
                policy = one["cohort"].rpartition("/")[0]
                found["verdicts", one["stage"], policy, one["reply"][:3]] += 1
            elif one.get("event") == "delivery":
                found["deliveries", one["use"], one["outcome"]] += 1
            elif one.get("event") == "session":
                found["sessions", one["listener"], one["outcome"]] += 1
        return found

    def test_status(self) -> None:
        """For people, and for monitoring, with a server and without."""
        server, _ = self.watched()
        done = self.status(server)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("deferrals ", done.stdout.splitlines()[0])
        done = self.status(server, "--check")
        self.assertEqual((done.returncode, done.stdout), (0, "good: 0 messages in the queue\n"))
        server.stop()
        done = self.status(server, "--check")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertEqual(done.stdout, "critical: the server does not run\n")

    def test_tls(self) -> None:
        """By TLS: the same, whatever comes that is no TLS, or never gets so far."""
        directory = self.directory()
        certificate, key = makeCertificate(directory)
        token = os.path.join(directory, "token")
        with open(token, "w", encoding="utf-8") as file:
            file.write("secret\n")
        names = {"certificate": certificate, "key": key, "token_file": token}
        port = freePort()
        web = f'[web]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
        web += "".join(f'{name} = "{value}"\n' for name, value in names.items())
        server = self.server(CONFIG + web)
        until(lambda: "for web" in server.log, "the port for monitoring")
        context = ssl.create_default_context(cafile=certificate)

        def secretly(where: str, **headers: str) -> int:
            return get(port, where, secure=context, **headers)[0]

        until(lambda: secretly("/readyz") == 200, "mail is taken")
        self.assertEqual(secretly("/metrics"), 401)
        self.assertEqual(secretly("/metrics", Authorization="Bearer wrong"), 401)
        self.assertEqual(secretly("/metrics", Authorization="Bearer secret"), 200)
        self.assertEqual(secretly("/healthz", Host="evil.example"), 421)
        self.assertRaises(OSError, get, port, "/healthz")
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for one in silent:
            self.addCleanup(one.close)
        self.assertEqual(secretly("/metrics", Authorization="Bearer secret"), 200)
        makeCertificate(directory, "localhost")
        server.process.process.send_signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in server.log, server.log)
        context = ssl.create_default_context(cafile=certificate)
        self.assertEqual(secretly("/healthz"), 200)

    def test_strangers(self) -> None:
        """A wrong token, a Host from elsewhere; silent ones and floods cost mail nothing."""
        token = os.path.join(self.directory(), "token")
        with open(token, "w", encoding="utf-8") as file:
            file.write("secret\n")
        server, port = self.watched(f'token_file = "{token}"\n')
        self.assertEqual(get(port, "/metrics")[0], 401)
        self.assertEqual(get(port, "/metrics", Authorization="Bearer wrong")[0], 401)
        self.assertEqual(get(port, "/metrics", Authorization="Bearer secret")[0], 200)
        self.assertEqual(get(port, "/healthz", Host="evil.example")[0], 421)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for one in silent:
            self.addCleanup(one.close)
        self.assertEqual(get(port, "/metrics", Authorization="Bearer secret")[0], 200)
        with smtplib.SMTP("127.0.0.1", server.port, "c.test") as client:
            client.sendmail("me@client.test", ["postmaster@example.net"], "Subject: x\r\n\r\nx")
        for one in silent:
            with contextlib.suppress(OSError):  # some are cut off
                one.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100000)
        until(lambda: _answers(port), "monitoring is answered")

    def test_prometheus(self) -> None:
        """A real Prometheus scrapes the server; every query of the dashboard has a meaning."""
        server, port = self.watched()
        self.run_(server)
        directory, own = self.directory(), freePort()
        config = os.path.join(directory, "prometheus.yml")
        rules = [os.path.join(CONTRIB, "prometheus", name) for name in ("rules.yml", "alerts.yml")]
        with open(config, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": rules,
                    "scrape_configs": [
                        {
                            "job_name": "deferrals",
                            "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                        }
                    ],
                },
                file,
            )
        self.daemon(
            [
                *(program("prometheus"), f"--config.file={config}"),
                *(f"--storage.tsdb.path={directory}", f"--web.listen-address=127.0.0.1:{own}"),
            ],
            directory,
            lambda: _answers(own, "/-/ready"),
            "Prometheus",
        )
        until(lambda: self.ask(own, "sum(deferrals_verdicts_total)") == [12.0], "it has scraped")
        until(
            lambda: self.ask(own, "sum(rate(deferrals_verdicts_total[1m])) * 0") == [0.0], "twice"
        )
        with open(os.path.join(CONTRIB, "grafana", "deferrals.json"), encoding="utf-8") as file:
            dashboard = json.load(file)
        queries = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
        self.assertGreater(len(queries), 12)
        empty = [query for query in queries if not self.ask(own, query)]
        rules += [os.path.join(CONTRIB, "prometheus", "tests.yml")]
        for rule in rules:
            with open(rule, encoding="utf-8") as file:
                queries.append(file.read())
        _, text = get(port, "/metrics")
        there = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        used = re.findall(r"\b(?:deferrals|process)_\w+\b(?!:)", " ".join(queries))
        named = {re.sub("_(bucket|sum|count)$", "", one) for one in used}
        several = {"deferrals_worker_up", "deferrals_owner_up"}  # of several processes, machines
        self.assertEqual(named - there, several)
        idle = ("queue_", "service_", "owner_up", "> 0")  # nothing waits, or is shared, or wrong
        self.assertEqual([query for query in empty if not any(one in query for one in idle)], [])

    def ask(self, port: int, query: str) -> list[float]:
        _, text = get(port, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        answer = json.loads(text)
        self.assertEqual(answer["status"], "success", query)
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def test_rules(self) -> None:
        """The alerts fire on what they are for, and are silent on a normal day."""
        promtool = program("promtool")
        for command in (
            ["test", "rules", "tests.yml"],
            ["check", "rules", "rules.yml", "alerts.yml"],
        ):
            done = subprocess.run(
                [promtool, *command],
                cwd=os.path.join(CONTRIB, "prometheus"),
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(len(glob.glob(os.path.join(CONTRIB, "prometheus", "*.yml"))), 3)

    def test_metrics(self) -> None:
        """promtool finds nothing wrong with names and texts."""
        _, port = self.watched()
        _, text = get(port, "/metrics")
        promtool = program("promtool")
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))


def _answers(port: int, where: str = "/healthz") -> bool:
    try:
        return get(port, where)[0] == 200
    except OSError:
        return False


def config(delivery: str, stage: str = "", more: str = "") -> str:
    """
    A server with one rule, C{*@example.net}, and one more policy for C{other@}.

    @param delivery: where its mail goes.
    @param stage: what judges it.
    """
    envelope = "defer" if stage else "accept"
    return f"""
hostname = "mx.example.net"
bounces = "none"
{more}
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
mixed = "split"
[policies.one]
envelope = "{envelope}"
content = [{stage}]
[policies.other]
content = [ {{ use = "match", rules = [ {{ test = "eicar" }} ] }} ]
[[recipients]]
match = "other@example.net"
policy = "other"
deliver = {{ use = "maildir", path = "mail/other" }}
[[recipients]]
match = "*@example.net"
policy = "one"
deliver = {delivery}
"""


MAILDIR = '{ use = "maildir", path = "mail/{local}" }'
MATCH = '{ use = "match", rules = [ { test = "gtube" } ] }'


class DaysTests(WatchedCase):
    """
    The three days of docs/monitoring.md, told by a server to which they happen.
    """

    def send(self, server: Server, *locals_: str) -> int:
        """
        A message of a plain sender.

        @return: the code behind the data; 0 where nobody was let in.
        """
        with smtplib.SMTP("127.0.0.1", server.port, "c.test") as client:
            client.ehlo()
            client.docmd("MAIL FROM:<me@client.test>")
            codes = [client.docmd(f"RCPT TO:<{one}@example.net>")[0] for one in locals_]
            if 250 not in codes:
                return 0
            return client.data("Subject: x\r\n\r\nhello\r\n")[0]

    def code(self, port: int, code: str) -> float:
        """How many recipients of the policy had this answer to the content."""
        return self.samples(port, "deferrals_verdicts_total").get((code, "one", "content"), 0)

    def test_scannerRests(self) -> None:
        """
        Its state, the requests that are not made, and 451 in the place of 250, until it
        is back.
        """
        where = freePort()
        stage = f'{{ use = "http", url = "http://127.0.0.1:{where}/" }}'
        server, port = self.watched(config=config(MAILDIR, stage))
        (service,) = {name for (name,) in self.samples(port, "deferrals_service_state")}
        for _ in range(8):
            self.assertEqual(self.send(server, "reader"), 451)
        until(lambda: self.code(port, "451") == 8, "they are counted")
        self.assertEqual(self.samples(port, "deferrals_service_state")[service,], 2)
        requests = self.samples(port, "deferrals_service_requests_total")
        self.assertEqual((requests["failed", service], requests["left_alone", service]), (5, 3))
        self.assertIn("resting", self.status(server).stdout)

        def answer(request: bytes) -> bytes:
            content = b'{"default": {"accept": true}}'
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)

        self.serve(where, answer)
        until(lambda: self.send(server, "reader") == 250, "the probe")
        until(lambda: self.code(port, "250") == 1, "it is counted")
        self.assertEqual(self.samples(port, "deferrals_service_state")[service,], 0)

    def serve(self, port: int, answer: Callable[[bytes], bytes]) -> None:
        """
        A service that is there again.
        """

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(answer(self.request.recv(1 << 16)))

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        service = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        self.addCleanup(lambda: (service.shutdown(), thread.join(), service.server_close()))

    def test_destinationDies(self) -> None:
        """
        Retries, one destination that is left alone, a queue that grows by its mail; and
        no other waits.
        """
        hop = f'{{ use = "smtp", endpoint = "tcp:127.0.0.1:{freePort()}" }}'
        server, port = self.watched(config=config(hop))
        for _ in range(6):
            self.assertEqual(self.send(server, "reader"), 250)
            self.assertEqual(self.send(server, "other"), 250)
        until(lambda: self.samples(port, "deferrals_destinations_backed_off")[()] == 1, "at rest")
        until(lambda: self.deliveries(port, "maildir", "delivered") == 6, "no other waits")
        self.assertGreaterEqual(self.deliveries(port, "smtp", "retry"), 1)
        queued = "deferrals_queue_recipients"
        until(lambda: self.samples(port, queued).get(("smtp", "queued")) == 6, "what waits")
        oldest = "deferrals_queue_oldest_seconds"  # the queue is counted now and then
        until(lambda: self.samples(port, oldest)["smtp",] > 0, "the oldest")
        self.assertIn("127.0.0.1", self.status(server).stdout)

    def deliveries(self, port: int, use: str, outcome: str) -> float:
        """How many had this outcome."""
        return self.samples(port, "deferrals_deliveries_total").get((use, outcome), 0)

    def test_mixedMailGrows(self) -> None:
        """
        Recipients that are sent away, the attempt of a sender that comes again, and how
        long the last of them had to wait.
        """
        server, port = self.watched(config=config(MAILDIR, MATCH))
        self.assertEqual(self.send(server, "reader", "other"), 250)
        self.assertEqual(self.samples(port, "deferrals_mixed_total")["sent_away",], 1)
        self.assertEqual(self.send(server, "other"), 250)
        until(lambda: self.samples(port, "deferrals_mixed_total")["retry_seen",] == 1, "it is seen")
        name = "deferrals_mixed_last_recipient_seconds_count"
        until(lambda: self.samples(port, name)[()] == 1, "the message is whole")
