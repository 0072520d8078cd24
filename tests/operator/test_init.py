"""
C{deferrals init}.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.service import checkConfig
from deferrals.cli import main
from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError
from deferrals.operator import init
from deferrals.plugins.finding import stagePlugins
from tests.tls import makeCertificate

#: What each kind cannot do without.
NEEDED = {
    "gateway": ["--domain", "example.net, EXAMPLE.org,example.net"],
    "laptop": ["--smarthost", "smtp.example.net:587", "--user", "me"],
    "submission": ["--domain", "example.net", "--certificate", "mail.pem"],
    "lmtp": ["--domain", "example.net"],
}


#: Answers, good ones and others.
VALUES = st.sampled_from(
    [
        *("127.0.0.1:25", "tcp:127.0.0.1:25", "unix:/run/x", "unix:", "tcp:x", "tcp:99999", "25"),
        *("smtp.example.net:587", "a:b:25", "a:\u00b2", ":25", "[::1]:25", "a b:25"),
        *("mx.example.net", "b\u00fccher.example", "a..b", "", " ", ",", '"', "a\nb", "\x00"),
        *("\udcff", "old.toml", "taken", "none", "../mail.pem", "-", "$x"),
    ]
)


def answered(kind: str) -> st.SearchStrategy[tuple[str, dict[str, str]]]:
    """
    A kind, with answers to some of its questions.
    """
    options = st.sampled_from([f"--{one.name}" for one in init.KINDS[kind]])
    return st.tuples(st.just(kind), st.dictionaries(options, VALUES, max_size=3))


def tree(directory: str) -> dict[str, str]:
    """
    What is in a directory, with its contents or where it leads.
    """
    found = {}
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.islink(path):
            found[name] = os.readlink(path)
        elif os.path.isdir(path):
            found[name] = repr(tree(path))
        else:
            with open(path, encoding="utf-8") as file:
                found[name] = file.read()
    return found


class Terminal(io.StringIO):
    """
    Someone types.
    """

    def isatty(self) -> bool:
        return True


class InitTests(SynchronousTestCase):
    """
    C{deferrals init}.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.path = os.path.join(self.directory, "mx.toml")
        certificate, key = makeCertificate(self.directory)
        with open(os.path.join(self.directory, "mail.pem"), "w", encoding="ascii") as both:
            for name in (certificate, key):
                with open(name, encoding="ascii") as file:
                    both.write(file.read())

    def init(self, *arguments: str, stdin: io.StringIO | None = None) -> tuple[int, str, str]:
        """
        @return: the exit status, and what was said on both outputs.
        """
        given = mock.patch("sys.stdin", stdin or io.StringIO())
        out, errors = io.StringIO(), io.StringIO()
        with given, redirect_stdout(out), redirect_stderr(errors):
            status = main(["init", *arguments])
        return status, out.getvalue(), errors.getvalue()

    def load(self) -> Config:
        config = load(self.path, stagePlugins())
        checkConfig(config, Clock())
        return config

    def text(self) -> str:
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def test_kinds(self) -> None:
        """
        Each kind writes what check-config likes without a remark, once a password is there
        where one is needed.
        """
        with open(os.path.join(self.directory, "smarthost.password"), "w", encoding="ascii") as one:
            one.write("secret")
        self.assertEqual(sorted(NEEDED), sorted(init.KINDS))
        for kind, needed in NEEDED.items():
            status, out, errors = self.init(kind, self.path, "--force", *needed)
            self.assertEqual((status, errors), (0, ""), kind)
            self.assertIn("good: 1 listeners", out)
            self.assertIn("run it:", out)
            self.load()
            self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o640)

    def test_comments(self) -> None:
        """What a kind has as a comment to be taken in is good, too."""
        for kind, needed in NEEDED.items():
            self.init(kind, self.path, "--force", *needed)
            text = re.sub(r"^( *)# (?=[{\[]|certificate =)", r"\1", self.text(), flags=re.M)
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(text)
            self.load()

    def test_domains(self) -> None:
        """Each domain once, its postmaster first, who gets everything."""
        self.init("gateway", self.path, *NEEDED["gateway"])
        self.assertEqual(
            [(rule.match, rule.policy) for rule in self.load().recipients],
            [
                ("postmaster@example.net", "open"),
                ("*@example.net", "strict"),
                ("postmaster@example.org", "open"),
                ("*@example.org", "strict"),
            ],
        )

    def test_behind(self) -> None:
        """A socket and port 24 are mail stores, others are mail servers."""
        for endpoint, name in (
            ("unix:/run/store", "lmtp"),
            ("tcp:10.0.0.1:24", "lmtp"),
            ("tcp:10.0.0.24:25", "smtp"),
        ):
            arguments = ["--force", *NEEDED["gateway"], "--behind", endpoint]
            self.assertEqual(self.init("gateway", self.path, *arguments)[0], 0)
            self.assertEqual(self.load().deliveries["behind"].plugin.name, name)

    def test_smarthost(self) -> None:
        """Submission goes by DNS, or through the smarthost that is named."""
        for more, name in (([], "mx"), (["--smarthost", "smtp.example.net:587"], "smtp")):
            self.init("submission", self.path, "--force", *NEEDED["submission"], *more)
            self.assertEqual(self.load().deliveries["out"].plugin.name, name)

    def test_asked(self) -> None:
        """A terminal is asked for what no option says; an empty answer is the default."""
        with mock.patch("builtins.input", side_effect=["mx.example.net", "h:25", "", "", "q"]):
            status, _, errors = self.init("laptop", self.path, "--user", "", stdin=Terminal())
        self.assertEqual((status, errors), (0, ""))
        config = self.load()
        self.assertEqual(config.hostname, "mx.example.net")
        self.assertEqual(config.state_dir, "q")
        self.assertEqual(config.listen[0].endpoint, "tcp:2525:interface=127.0.0.1")

    def test_interrupted(self) -> None:
        """An end of the input, or Ctrl-C, writes nothing."""
        for end in (EOFError, KeyboardInterrupt):
            with mock.patch("builtins.input", side_effect=end):
                status, _, errors = self.init("laptop", self.path, stdin=Terminal())
            self.assertEqual((status, errors), (2, "deferrals: nothing was written\n"))
        self.assertFalse(os.path.exists(self.path))

    def test_refused(self) -> None:
        """What cannot be is refused, with the option that is meant, and nothing is written."""
        for kind, arguments, what in (
            ("gateway", [], "--domain is needed"),
            ("gateway", ["--domain", ","], "--domain: not one is named"),
            ("gateway", ["--domain", "a b"], "--domain: "),
            ("laptop", ["--smarthost", "smtp.example.net"], "--smarthost: expected HOST:PORT"),
            ("submission", ["--domain", "example.net"], "--certificate is needed"),
            ("gateway", [*NEEDED["gateway"], "--behind", "127.0.0.1:25"], "--behind: expected"),
            ("gateway", [*NEEDED["gateway"], "--hostname", "a b"], "--hostname: expected"),
            ("lmtp", [*NEEDED["lmtp"], "--listen", "25"], "--listen: expected"),
            ("lmtp", [*NEEDED["lmtp"], "--state-dir", "mail.pem"], "--state-dir: expected"),
            ("laptop", ["--smarthost", "a:b:25"], "--smarthost: expected"),
            ("laptop", ["--smarthost", "a:25", "--user", "a\nb"], "--user: expected"),
            ("lmtp", [*NEEDED["lmtp"], "--state-dir", "\udcff"], "--state-dir: expected text"),
        ):
            status, _, errors = self.init(kind, self.path, *arguments)
            self.assertEqual(status, 2, what)
            self.assertIn(what, errors)
            self.assertFalse(os.path.exists(self.path))

    def test_allRefused(self) -> None:
        """What is wrong is said beside other things that are, or that are not there yet."""
        missing = [*NEEDED["gateway"], "--certificate", "no.pem", "--listen", "25"]
        status, _, errors = self.init("gateway", self.path, *missing, "--behind", "there")
        self.assertEqual(status, 2)
        self.assertEqual(re.findall(r"--[a-z]+", errors), ["--listen", "--behind"])
        self.assertNotIn("tls", errors)

    @given(
        st.sampled_from(sorted(NEEDED)).flatmap(answered),
        st.sampled_from(["mx.toml"] * 5 + ["old.toml", "none/mx.toml", "taken", "a\x00b", "link"]),
        st.booleans(),
    )
    @example(("gateway", {"--behind": "127.0.0.1:25"}), "old.toml", True)
    @example(("lmtp", {"--state-dir": "old.toml"}), "mx.toml", False)
    @example(("submission", {"--certificate": "none"}), "mx.toml", False)
    def test_nothingLeft(
        self, answers: tuple[str, dict[str, str]], name: str, isForced: bool
    ) -> None:
        """What is refused leaves everything as it was; what is written needs no more than files."""
        directory = tempfile.mkdtemp(dir=self.directory)
        os.mkdir(os.path.join(directory, "taken"))
        with open(os.path.join(directory, "old.toml"), "w", encoding="utf-8") as file:
            file.write("# mine\n")
        os.symlink("old.toml", os.path.join(directory, "link"))
        before = tree(directory)
        kind, options = answers
        said = dict(zip(NEEDED[kind][::2], NEEDED[kind][1::2], strict=True))
        words = [f"{key}={value}" for key, value in (said | options).items()]
        path = os.path.join(directory, name)
        status, out, errors = self.init(kind, path, *["--force"] * isForced, *words)
        if status == 2:
            self.assertEqual((tree(directory), out), (before, ""))
            self.assertTrue(errors.startswith("deferrals: "))
            return
        self.assertEqual(set(tree(directory)) - set(before), {name} - set(before))
        self.path = path
        try:
            self.load()
        except ConfigError as error:
            self.assertEqual((status, [key for key, _ in error.problems]), (1, ["tls.certificate"]))
        else:
            self.assertEqual(status, 0)

    def test_there(self) -> None:
        """A file that is there stays as it is."""
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("# mine\n")
        status, _, errors = self.init("lmtp", self.path, *NEEDED["lmtp"])
        self.assertEqual(status, 2)
        self.assertIn("is there already", errors)
        self.assertEqual(self.text(), "# mine\n")

    def test_missing(self) -> None:
        """What the configuration needs and is not there yet is named: exit status 1."""
        status, _, errors = self.init(
            "submission", self.path, "--domain", "example.net", "--certificate", "no.pem"
        )
        self.assertEqual(status, 1)
        self.assertIn("tls.certificate", errors)

    def test_noDirectory(self) -> None:
        """A file that cannot be written is named, and no other one."""
        path = os.path.join(self.directory, "none", "mx.toml")
        status, _, errors = self.init("lmtp", path, *NEEDED["lmtp"])
        self.assertEqual((status, errors), (2, f"deferrals: {path}: No such file or directory\n"))

    def test_next(self) -> None:
        """What is to be done next is said: passwords, users, the command."""
        out = self.init("laptop", self.path, *NEEDED["laptop"])[1]
        self.assertRegex(out, r"the password of me:  the first line of /.*/smarthost.password")
        out = self.init("submission", self.path, "--force", *NEEDED["submission"])[1]
        self.assertRegex(out, r"deferrals passwd /.*/users alice@example\.net")
        self.assertRegex(out, r"--config \S+ --auth passwd:/.*/users")
        with mock.patch.object(init, "_SERVICE", os.path.abspath(self.directory)):
            self.init("laptop", self.path, "--force", *NEEDED["laptop"])
            self.assertIn('path = "/var/lib/deferrals/mail/{local}"', self.text())
            out = self.init("submission", self.path, "--force", *NEEDED["submission"])[1]
        self.assertEqual(self.load().state_dir, "/var/lib/deferrals/state")
        self.assertIn('DEFERRALS_OPTIONS="--auth passwd:', out)
        self.assertIn("systemctl enable --now deferrals", out)

    def test_quoted(self) -> None:
        """Text of any kind comes back as it was."""
        for text in ('a"b\\c', "\x7f\x00\n", "straße", "\U0001f4e7"):
            self.init("gateway", self.path, "--force", *NEEDED["gateway"], "--state-dir", text)
            self.assertEqual(self.load().state_dir, text)
