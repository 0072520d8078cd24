"""
The scanners that operators run, each in a directory of its own on loopback.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
from string import Template
from unittest import SkipTest

from deferrals.stages.content.match.findings import EICAR, GTUBE
from tests.integration.support import IntegrationCase, Process, program, until
from tests.ports import freePort


def _lines(text: str) -> str:
    return "".join(line.strip() + "\n" for line in text.strip().splitlines())


def _talk(where: int | str, data: bytes) -> bytes:
    """
    Say something to a port or a Unix socket; what it answers until it closes.
    """
    try:
        if isinstance(where, int):
            connection = socket.create_connection(("127.0.0.1", where), timeout=5)
        else:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(5)
            connection.connect(where)
        with connection:
            connection.sendall(data)
            answer = b""
            while data := connection.recv(4096):
                answer += data
            return answer
    except OSError:
        return b""


class Daemon:
    """
    A scanner that can be killed, stopped, continued and started again.

    @ivar directory: where its configuration and its log are.
    """

    what = ""

    def __init__(self, case: IntegrationCase) -> None:
        self.case = case
        self.directory = case.directory()
        self.port = freePort()
        self.prepare()
        self.start()

    def prepare(self) -> None:
        """
        Write its configuration.
        """

    def argv(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self.process: Process = self.case.daemon(
            self.argv(), self.directory, self.answers, self.what
        )

    def signal(self, number: int) -> None:
        """
        To all its processes.
        """
        os.killpg(self.process.process.pid, number)

    def kill(self) -> None:
        """
        Returns when nobody listens any longer: its children end on their own.
        """
        self.signal(signal.SIGKILL)
        self.process.process.wait()
        until(lambda: not self.listens(), f"{self.what} has gone")

    def listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except OSError:
            return False

    def freeze(self) -> None:
        """
        It takes connections, and says nothing.
        """
        self.signal(signal.SIGSTOP)
        self.case.addCleanup(self.thaw)

    def thaw(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)

    def write(self, name: str, text: str) -> str:
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def log(self) -> str:
        try:
            with open(os.path.join(self.directory, f"{self.what}.log"), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""


#: The configuration of each rspamd, before its own.
_FRAME = """
options {
  pidfile = "$DIR/run/rspamd.pid";
  control_socket = "$DIR/run/control.sock mode=0600";
  tempdir = "$DIR/run";
  cache_file = "$DIR/db/symbols.cache";
  hs_cache_dir = "$DIR/db/";
  history_file = "$DIR/db/history";
  stats_file = "$DIR/db/stats.ucl";
  url_tld = "$DIR/tld.dat";
  filters = "$FILTERS";
  explicit_modules = $MODULES;
  allow_raw_input = true;
  $OPTIONS
  dns { nameserver = $NAMESERVER; timeout = $PATIENCE; retransmits = 1; sockets = 1; }
}
logging { type = "file"; filename = "$DIR/rspamd.log"; level = "info"; }
worker "normal" { bind_socket = "127.0.0.1:$PORT"; count = 1; }
modules { $PATHS }
"""

#: Rules on the Subject, and what they come to.
_SUBJECTS = """
settings {
  strict { id = "strict"; priority = low; apply { scores { TEST_FIVE = 9.0; } } }
  personal { priority = low; rcpt = "personal@example.net"; apply { scores { TEST_FIVE = 1.5; } } }
}
actions { reject = 15; add_header = 6; greylist = null; }
regexp {
  TEST_FIVE = { re = "Subject=/score-five/i"; score = 5.0; group = "test"; }
  TEST_TWO = { re = "Subject=/score-two/i"; score = 2.0; group = "test"; }
  TEST_TWENTY = { re = "Subject=/score-twenty/i"; score = 20.0; group = "test"; }
  TEST_SOFT = { re = "Subject=/score-soft/i"; score = 1.0; group = "test"; }
  TEST_FORCED = { re = "Subject=/score-forced/i"; score = 1.0; group = "test"; }
  TEST_GREY = { re = "Subject=/score-grey/i"; score = 1.0; group = "test"; }
}
force_actions {
  rules {
    SOFT { action = "soft reject"; expression = "TEST_SOFT"; message = "come back later"; }
    FORCED { action = "reject"; expression = "TEST_FORCED"; message = "not from you"; }
    GREY { action = "greylist"; expression = "TEST_GREY"; }
  }
}
milter_headers { use = ["x-spamd-bar"]; skip_local = false; skip_authenticated = false; }
"""


class Rspamd(Daemon):
    """
    rspamd with three rules on the Subject: C{score-five}, C{score-twenty},
    and C{score-soft}, which is a C{soft reject}.

    @param nameserver: which it asks; by default none that answers.
    @cvar modules: written in Lua, which it has; C{further} ones need not be named.
    @cvar inOptions: further lines of its section C{options}.
    @cvar own: its configuration, beside the frame.
    @ivar url: its normal worker.
    """

    what = "rspamd"
    filters = "regexp"
    modules: tuple[str, ...] = ("settings",)
    further: tuple[str, ...] = ("force_actions", "milter_headers")
    domains = "com\nnet\norg\n"
    inOptions = ""
    own = _SUBJECTS

    def __init__(self, case: IntegrationCase, nameserver: str = "") -> None:
        self.nameserver = nameserver
        super().__init__(case)

    def prepare(self) -> None:
        self.program = program("rspamd")
        self.url = f"http://127.0.0.1:{self.port}"
        for name in ("db", "run"):
            os.mkdir(os.path.join(self.directory, name))
        self.write("tld.dat", self.domains)
        paths = [f"/usr/share/rspamd/plugins/{name}.lua" for name in self.modules + self.further]
        values = {
            "DIR": self.directory,
            "PORT": str(self.port),
            "FILTERS": self.filters,
            "MODULES": json.dumps(self.modules),
            "NAMESERVER": json.dumps([self.nameserver or "127.0.0.1:1"]),
            "OPTIONS": self.inOptions,
            "PATIENCE": "9s" if self.nameserver else "0.1s",
            "PATHS": " ".join(f'path = "{path}";' for path in paths),
        }
        self.config = self.write("rspamd.conf", Template(_FRAME).substitute(values) + self.own)

    def argv(self) -> list[str]:
        root = ["-i"] if os.getuid() == 0 else []
        return [self.program, "-f", "-c", self.config, *root]

    def answers(self) -> bool:
        return b"pong" in _talk(self.port, b"GET /ping HTTP/1.0\r\n\r\n")

    def scans(self) -> int:
        """
        How many messages it has been given, logged results or not.
        """
        return self.log().count("loaded message")

    def results(self) -> list[str]:
        """
        The result lines of its log.
        """
        return re.findall(r"rspamd_task_write_log: (.*)", self.log())


class VerifyingRspamd(Rspamd):
    """
    rspamd that looks at signatures only, and so is there at once.
    """

    filters = "dkim"
    own = "dkim { }\n"


class StockRspamd(Rspamd):
    """
    rspamd as Debian installs it, with its own modules and thresholds, without Redis and
    without a network; only rules on the Subject and a key to sign with are ours.

    @param options: of its own, in its syntax.
    @ivar milter: the port of its proxy, which is a milter.
    """

    def __init__(self, case: IntegrationCase, options: str = "") -> None:
        self.options = options
        super().__init__(case)

    def prepare(self) -> None:
        self.program = program("rspamd")
        self.url = f"http://127.0.0.1:{self.port}"
        self.milter, controller = freePort(), freePort()
        self.config = "/etc/rspamd/rspamd.conf"
        if not os.path.exists(self.config):
            raise SkipTest("rspamd has no configuration in /etc")
        for name in ("db", "run"):
            os.mkdir(os.path.join(self.directory, name))
        key = subprocess.run(
            ["openssl", "genrsa", "-traditional", "2048"], capture_output=True, check=True
        )
        self.write("dkim.key", key.stdout.decode())
        dns = 'dns { nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; }\n'
        for name, text in {
            "options.inc": dns + self.options,
            "worker-normal.inc": f'bind_socket = "127.0.0.1:{self.port}"; count = 1;',
            "worker-controller.inc": f'bind_socket = "127.0.0.1:{controller}";',
            "worker-proxy.inc": f'bind_socket = "127.0.0.1:{self.milter}";'
            f'upstream "local" {{ default = yes; hosts = "127.0.0.1:{self.port}"; }}',
        }.items():
            self.write(f"override.d/{name}", text)
        for name, text in _STOCK.items():
            self.write(f"local.d/{name}", text.replace("$DIR", self.directory))

    def argv(self) -> list[str]:
        here = self.directory
        places = (("LOCAL_CONFDIR", here), ("LOGDIR", here))
        places += (("DBDIR", f"{here}/db"), ("RUNDIR", f"{here}/run"))
        return [*super().argv(), *(f"--var={name}={place}" for name, place in places)]


_STOCK = {
    "regexp.conf": """
TEST_FIVE { re = "Subject=/score-five/i"; score = 5.0; group = "test"; }
TEST_SEVEN { re = "Subject=/score-seven/i"; score = 7.0; group = "test"; }
TEST_TWENTY { re = "Subject=/score-twenty/i"; score = 20.0; group = "test"; }
TEST_SOFT { re = "Subject=/score-soft/i"; score = 0.1; group = "test"; }
TEST_DISCARD { re = "Subject=/score-discard/i"; score = 0.1; group = "test"; }
TEST_QUARANTINE { re = "Subject=/score-quarantine/i"; score = 0.1; group = "test"; }
TEST_SUBJECT { re = "Subject=/score-subject/i"; score = 0.1; group = "test"; }
TEST_OWN { re = "Subject=/score-own/i"; score = 0.1; group = "test"; }
""",
    "force_actions.conf": """
rules {
  SOFT { action = "soft reject"; expression = "TEST_SOFT"; message = "come back later"; }
  DISCARD { action = "discard"; expression = "TEST_DISCARD"; }
  QUARANTINE { action = "quarantine"; expression = "TEST_QUARANTINE"; }
  SUBJECT { action = "rewrite subject"; expression = "TEST_SUBJECT"; subject = "*** %s"; }
  OWN { action = "our own"; expression = "TEST_OWN"; }
}
""",
    "actions.conf": "".join(
        f'"{name}" = {{ score = {score}; flags = ["no_threshold"]; }}\n'
        for score, name in enumerate(("our own", "discard", "quarantine"), 900)
    ),
    "dkim_signing.conf": """
domain { client.test { path = "$DIR/dkim.key"; selector = "s"; } }
allow_username_mismatch = true;
sign_local = true;
check_pubkey = false;
""",
    "milter_headers.conf": 'use = ["x-spamd-bar", "x-spam-level"]; skip_local = false;\n',
}


class Clamd(Daemon):
    """
    clamd with two signatures of our own: EICAR, and one hash (L{OWN_VIRUS}).

    @param options: of its own, one a line.
    @ivar endpoint: its TCP port, as an endpoint string.
    @ivar unix: its Unix socket, likewise.
    """

    what = "clamd"
    maxOctets = 1 << 20

    def __init__(self, case: IntegrationCase, options: str = "") -> None:
        self.options = options
        super().__init__(case)

    def prepare(self) -> None:
        self.program = program("clamd")
        self.endpoint = f"tcp:127.0.0.1:{self.port}"
        self.unix = f"unix:{self.directory}/clamd.sock"
        os.mkdir(os.path.join(self.directory, "tmp"))
        self.write("db/own.ndb", f"Test.Eicar:0:*:{EICAR.hex()}\n")
        digest = hashlib.md5(OWN_VIRUS).hexdigest()
        self.write("db/own.hdb", f"{digest}:{len(OWN_VIRUS)}:Test.Own\n")
        self.config = self.write(
            "clamd.conf",
            _lines(
                f"""
                DatabaseDirectory {self.directory}/db
                TemporaryDirectory {self.directory}/tmp
                LocalSocket {self.directory}/clamd.sock
                LocalSocketMode 666
                TCPAddr 127.0.0.1
                TCPSocket {self.port}
                LogFile {self.directory}/clamd.log
                LogClean yes
                LogVerbose yes
                Foreground yes
                StreamMaxLength {self.maxOctets}
                CommandReadTimeout 5
                ReadTimeout 5
                SelfCheck 0
                MaxThreads 4
                {self.options}
                """
            ),
        )

    def argv(self) -> list[str]:
        return [self.program, "-c", self.config]

    def answers(self) -> bool:
        return _talk(self.port, b"zPING\0") == b"PONG\0"

    def scans(self) -> int:
        return len(re.findall(r"instream\([^)]*\): (?:OK|.* FOUND)", self.log()))


#: What the custom hash signature of L{Clamd} finds.
OWN_VIRUS = b"this file is a virus because we say so\r\n" * 3


class Spamd(Daemon):
    """
    spamd with two rules: C{score-five} in the Subject, and GTUBE.  The user
    C{fighter@example.net} has spam from 1.0 on; for C{lover@example.net} the
    first rule counts only 0.5.

    @ivar endpoint: its port, as an endpoint string.
    """

    what = "spamd"
    children = 4

    def prepare(self) -> None:
        self.program = program("spamd", "/usr/sbin/spamd")
        self.endpoint = f"tcp:127.0.0.1:{self.port}"
        root = os.getuid() == 0
        self.user = "nobody" if root else pwd.getpwuid(os.getuid()).pw_name
        self.group = "nogroup" if root else grp.getgrgid(os.getgid()).gr_name
        self.write("site/init.pre", "loadplugin Mail::SpamAssassin::Plugin::Check\n")
        self.write(
            "rules/10_own.cf",
            "use_bayes 0\nbayes_auto_learn 0\n"
            "header TEST_FIVE Subject =~ /score-five/\nscore TEST_FIVE 5.0\n"
            f"body GTUBE /{re.escape(GTUBE)}/\nscore GTUBE 1000\n",
        )
        self.write("prefs/example.net/fighter/user_prefs", "required_score 1.0\n")
        self.write("prefs/example.net/lover/user_prefs", "required_score 50\nscore TEST_FIVE 0.5\n")
        os.mkdir(os.path.join(self.directory, "home"))
        if root:
            for path, _, names in os.walk(self.directory):
                for name in [path, *(os.path.join(path, name) for name in names)]:
                    os.chown(name, pwd.getpwnam("nobody").pw_uid, -1)

    def argv(self) -> list[str]:
        here = self.directory
        return [
            *(self.program, "-L", "-x", "-u", self.user, "-g", self.group),
            *("-i", f"127.0.0.1:{self.port}", "-m", str(self.children), "--min-children=1"),
            *(f"--configpath={here}/rules", f"--siteconfigpath={here}/site"),
            *(f"--virtual-config-dir={here}/prefs/%d/%l", f"--helper-home-dir={here}/home"),
            *("-s", f"{here}/spamd.log", "-r", f"{here}/spamd.pid"),
        ]

    def score(self, data: bytes) -> float:
        """
        What it says of a message by itself.
        """
        request = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n" % len(data)
        answer = _talk(self.port, request + data)
        found = re.search(rb"^Spam: \w+ ; (-?[0-9.]+) /", answer, re.M)
        assert found is not None, answer
        return float(found[1])

    def answers(self) -> bool:
        return b"PONG" in _talk(self.port, b"PING SPAMC/1.5\r\n\r\n")

    def scans(self) -> int:
        return self.log().count("spamd: result:")


class DebianSpamd(Spamd):
    """
    spamd with the rules that it comes with, and a list of senders that are believed
    where they come from the right host.
    """

    def prepare(self) -> None:
        super().prepare()
        rules, site = "/usr/share/spamassassin", "/etc/spamassassin"
        if not os.path.isdir(rules):
            raise SkipTest("the rules of SpamAssassin are not installed")
        for source, target in ((rules, "rules"), (site, "site")):
            shutil.copytree(source, os.path.join(self.directory, target), dirs_exist_ok=True)
        os.unlink(os.path.join(self.directory, "rules", "10_own.cf"))
        self.write(
            "site/90_own.cf",
            "use_bayes 0\nbayes_auto_learn 0\nwelcomelist_from_rcvd *@bank.example bank.example\n",
        )
