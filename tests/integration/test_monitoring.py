"""
What monitoring sees of a real server: the numbers of a known run, with a real
Prometheus, its rules and its dashboard; and scrapers that mean no good.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import smtplib
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from deferrals.stages.content.match.stage import GTUBE
from tests.integration.support import (
    CONFIG,
    ROOT,
    IntegrationCase,
    Server,
    freePort,
    path,
    program,
    until,
)

CONTRIB = os.path.join(ROOT, "contrib")


def get(port: int, where: str, **headers: str) -> tuple[int, str]:
    """
    @return: status and content.
    """
    request = urllib.request.Request(f"http://127.0.0.1:{port}{where}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class MonitoringTests(IntegrationCase):
    """
    C{[web]} of a server.
    """

    def watched(self, more: str = "") -> tuple[Server, int]:
        """
        A server, and its port for monitoring.
        """
        port = freePort()
        web = f'[web]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{more}'
        server = self.server(CONFIG + web, "--log-format", "json")
        until(lambda: "for web" in server.log, "the port for monitoring")
        until(lambda: get(port, "/readyz")[0] == 200, "mail is taken")
        return server, port

    def samples(self, port: int, name: str) -> dict[tuple[str, ...], float]:
        _, text = get(port, "/metrics")
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def run_(self, server: Server) -> None:
        """
        Twelve sessions with mail, and one without.
        """
        for local, content in [
            *[("postmaster", "hello")] * 5,
            *[("fighter", "hello")] * 3,
            *[("fighter", GTUBE.decode() if isinstance(GTUBE, bytes) else GTUBE)] * 2,
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

    def status(self, server: Server, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deferrals.cli", "status", "--config", server.path, *options],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path(ROOT)},
            check=False,
        )

    def test_counting(self) -> None:
        """Sessions, verdicts and deliveries are what the run was: by metrics, status and log."""
        server, port = self.watched()
        self.run_(server)
        until(lambda: len(self.logged(server, "delivery")) == 8, "all is delivered")

        def sessions() -> bool:
            return sum(self.samples(port, "deferrals_sessions_total").values()) == 13

        until(sessions, "all sessions are over")
        counters = json.loads(self.status(server, "--json").stdout)["counters"]
        listener = "tcp:0:interface=127.0.0.1"
        found = self.samples(port, "deferrals_sessions_total")
        self.assertEqual(found, {(listener, "mail"): 12, (listener, "none"): 1})
        self.assertEqual(sum(counters["sessions"].values()), 13)
        verdicts = {
            ("250", "open", "envelope"): 5,
            ("250", "spam", "content"): 3,
            ("550", "spam", "content"): 2,
            ("450", "later", "content"): 1,
            ("550", "", "envelope"): 1,
        }
        found = self.samples(port, "deferrals_verdicts_total")
        self.assertEqual(
            {tuple(sorted(key)): n for key, n in found.items()},
            {tuple(sorted(key)): n for key, n in verdicts.items()},
        )
        self.assertEqual(sum(counters["verdicts"].values()), 12)
        self.assertEqual(len(self.logged(server, "recipient")), 12)
        transactions = self.samples(port, "deferrals_transactions_total")
        self.assertEqual(transactions, {("single",): 11, ("aborted",): 1})
        self.assertEqual(counters["transactions"], {"single": 11, "aborted": 1})
        self.assertEqual(len(self.logged(server, "transaction")), 12)
        deliveries = self.samples(port, "deferrals_deliveries_total")
        self.assertEqual(deliveries, {("maildir", "delivered"): 8})
        self.assertEqual(counters["deliveries"], {"maildir delivered": 8})

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
        silent = []
        for _ in range(200):
            with contextlib.suppress(OSError):  # cut off at once
                silent.append(socket.create_connection(("127.0.0.1", port)))
                self.addCleanup(silent[-1].close)
        with smtplib.SMTP("127.0.0.1", server.port, "c.test") as client:
            client.sendmail("me@client.test", ["postmaster@example.net"], "Subject: x\r\n\r\nx")
        for one in silent:
            one.close()
        until(lambda: _answers(port), "monitoring is answered again")

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
        idle = ("queue_", "service_", "mixed", "notices", "authentications")
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
