"""
C{deferrals init}: a commented configuration to begin with.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import string
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import attrs

from deferrals import durable
from deferrals.config.tables import defaultHostname
from deferrals.model.address import AddressError, normalDomain
from deferrals.model.text import hasControls
from deferrals.operator.output import complain, say

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: Nothing secret is in it; the server's group reads it.
_MODE = 0o640

#: Where the packaged service has its configuration, its data, and its command line.
_SERVICE = "/etc/deferrals"
_DATA = "/var/lib/deferrals"
_OPTIONS = "/etc/default/deferrals"

#: The port of LMTP, where an endpoint does not say which protocol it is.
_LMTP_PORT = "24"

_MAILBOX_RULES = """\
[[recipients]]
match = {postmaster}
policy = "open"
deliver = "behind"

[[recipients]]
match = {everyone}
policy = {policy}
deliver = "behind"

"""


#: Says what is wrong with the text of a configuration, for the path it will have: the
#: key and what was expected there.
Wrong: TypeAlias = Callable[[str, str], Sequence[tuple[str, str]]]

#: Reads C{arguments.file}, says what is wrong, and gives an exit status.
Check: TypeAlias = Callable[[argparse.Namespace], int]

#: Which option a key of the configuration has its value from.
_OPTIONS_OF = {
    "hostname": "hostname",
    "state_dir": "state-dir",
    "listen[0].endpoint": "listen",
    "deliveries.behind": "behind",
    "deliveries.smarthost": "smarthost",
    "deliveries.out": "smarthost",
}

#: What names a file that may come, or be mended, when the configuration is there.
_LATER = ("tls.certificate",)


@attrs.frozen
class Question:
    """
    One thing that a configuration depends on.

    @ivar name: the option, without its dashes.
    @ivar text: what is asked, and the option's help.
    @ivar default: the answer where there is no other; C{None} if there has to be one.
    """

    name: str
    text: str
    default: str | None = None

    @property
    def key(self) -> str:
        """
        The option's name among the arguments.
        """
        return self.name.replace("-", "_")


_HOSTNAME = Question("hostname", "this server's name in DNS", "")
_STATE = Question("state-dir", "the directory of the queue", "state")
_DOMAINS = Question("domain", "the domains that get mail here, separated by commas")
_BEHIND = Question(
    "behind",
    "the mail store or server that gets the mail: an endpoint; unix:PATH and port 24 speak LMTP",
    "unix:/run/dovecot/lmtp",
)
_CERTIFICATE = "a PEM file with the certificate and its key"
_SMARTHOST = "the server that sends your mail on, HOST:PORT"
_USER = Question("user", "the login at the smarthost", "")
_PASSWORD = Question("password-file", "the file with its password", "smarthost.password")

#: What is asked for each kind, and what is its own default.
KINDS: dict[str, tuple[Question, ...]] = {
    "gateway": (
        _HOSTNAME,
        _DOMAINS,
        _BEHIND,
        Question("listen", "where it listens", "tcp:25"),
        Question("certificate", f"{_CERTIFICATE}; without, no TLS", ""),
        _STATE,
    ),
    "laptop": (
        _HOSTNAME,
        Question("smarthost", _SMARTHOST),
        _USER,
        _PASSWORD,
        Question("listen", "where it listens", "tcp:2525:interface=127.0.0.1"),
        _STATE,
    ),
    "submission": (
        _HOSTNAME,
        _DOMAINS,
        _BEHIND,
        Question("smarthost", f"{_SMARTHOST}; without, mail goes where DNS says", ""),
        _USER,
        _PASSWORD,
        Question("listen", "where it listens", "tcp:587"),
        Question("certificate", _CERTIFICATE),
        _STATE,
    ),
    "lmtp": (
        _HOSTNAME,
        _DOMAINS,
        _BEHIND,
        Question("listen", "where it listens", "unix:/run/deferrals/lmtp"),
        _STATE,
    ),
}

_DESCRIPTIONS = {
    "gateway": "mail for your domains from everywhere, judged, to the server behind",
    "laptop": "mail of this machine's programs, to a smarthost when there is a network",
    "submission": "mail of your own users, who log in, to everywhere",
    "lmtp": "mail from an MTA in front, judged, into the mail store",
}


def addCommand(commands: Commands, wrong: Wrong, check: Check) -> None:
    """
    Add C{init} to the command line.

    @param wrong: asked before anything is written.
    @param check: the command that follows.
    """
    init = commands.add_parser(
        "init",
        help="write a configuration to begin with",
        description="What no option says is asked, or has its default where the input is no"
        " terminal. Exit status: 0; 1 if the configuration needs something that is not there"
        " yet; 2 if it was not written.",
    )
    kinds = init.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, questions in KINDS.items():
        one = kinds.add_parser(
            kind, help=_DESCRIPTIONS[kind], description=f"{_DESCRIPTIONS[kind]}."
        )
        one.add_argument("file", metavar="FILE", help="it must not be there")
        one.add_argument("--force", action="store_true", help="it may be there")
        for question in questions:
            note = f" ({question.default})" if question.default else ""
            one.add_argument(f"--{question.name}", metavar="TEXT", help=question.text + note)
        one.set_defaults(
            run=lambda arguments: run(arguments, wrong, check), explain=False, uid=None
        )


def run(arguments: argparse.Namespace, wrong: Wrong, check: Check) -> int:
    """
    The command.

    @return: the exit status.
    """
    try:
        if os.path.exists(arguments.file) and not arguments.force:
            raise ValueError(f"{arguments.file} is there already (--force replaces it)")
        answers = {one.key: _answer(one, arguments) for one in KINDS[arguments.kind]}
        answers["mail"] = os.path.join(_DATA if _isService(arguments.file) else "", "mail/{local}")
        text = configuration(arguments.kind, answers)
        _refuse(wrong(arguments.file, text))
        _write(arguments.file, text)
    except (EOFError, KeyboardInterrupt):
        complain("nothing was written")
        return 2
    except ValueError as error:
        complain(str(error))
        return 2
    except OSError as error:
        complain(f"{arguments.file}: {error.strerror}")
        return 2
    status = check(arguments)
    if status != 0:
        say("it was written; when what it needs is there:")
    _sayNext(arguments.kind, arguments.file, answers)
    return status


def _answer(question: Question, arguments: argparse.Namespace) -> str:
    """
    @raise ValueError: there is none.
    """
    said: str | None = getattr(arguments, question.key)
    default = question.default
    if question is _HOSTNAME:
        default = defaultHostname()
    elif question is _STATE and _isService(arguments.file):
        default = os.path.join(_DATA, "state")
    if said is None and sys.stdin.isatty():
        said = _ask(question.text, default)
    if said is None:
        said = default
    if said is None or (not said and default is None):
        raise ValueError(f"--{question.name} is needed: {question.text}")
    if not _isText(said):
        raise ValueError(f"--{question.name}: expected text in UTF-8")
    return said


def _isText(said: str) -> bool:
    """
    Whether its octets were text; those that were not stand for themselves in an option.
    """
    try:
        said.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse(problems: Iterable[tuple[str, str]]) -> None:
    """
    @param problems: by key of the configuration.
    @raise ValueError: one of them is there because of an answer, and stays.
    """
    lines = []
    for key, expected in problems:
        if key not in _LATER:
            option = _OPTIONS_OF.get(key)
            lines.append(f"{key if option is None else f'--{option}'}: {expected}")
    if lines:
        raise ValueError("\n".join(lines))


def _ask(text: str, default: str | None) -> str | None:
    """
    @return: C{None}, if the default will do.
    """
    shown = f" [{default}]" if default else ""
    return input(f"{text[0].upper()}{text[1:]}{shown}: ").strip() or None


def _isService(path: str) -> bool:
    """
    Whether the packaged service reads what is there.
    """
    return os.path.dirname(os.path.abspath(path)) == _SERVICE


def configuration(kind: str, answers: Mapping[str, str]) -> str:
    """
    The text of a kind's configuration.

    @param answers: by each question's key; and C{mail}, the path of a mailbox.
    @raise ValueError: an answer is none.
    """
    kinds = importlib.resources.files("deferrals.operator") / "kinds"
    template = (kinds / f"{kind}.toml").read_text(encoding="utf-8")
    values = {key: quoted(text) for key, text in answers.items()}
    values["tls"] = _tls(answers.get("certificate", ""))
    values["behind"] = _behind(answers.get("behind", ""))
    if "smarthost" in answers:
        values["smarthost"] = values["out"] = _smarthost(answers)
    if "domain" in answers:
        policy = "open" if kind == "submission" else "strict"
        values["recipients"] = "".join(_rules(_domains(answers["domain"]), policy))
    return string.Template(template).substitute(values).rstrip("\n") + "\n"


def quoted(text: str) -> str:
    """
    A string of TOML, which are those of JSON but for one character.
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _domains(text: str) -> list[str]:
    """
    @raise ValueError: one of them is none.
    """
    try:
        found = [normalDomain(one.strip()) for one in text.split(",") if one.strip()]
    except AddressError as error:
        raise ValueError(f"--domain: {error}") from None
    if not found:
        raise ValueError("--domain: not one is named")
    return list(dict.fromkeys(found))


def _rules(domains: Iterable[str], policy: str) -> Iterable[str]:
    """
    A domain's postmaster is reached whatever the mail looks like (RFC 5321 §4.5.1).
    """
    for domain in domains:
        yield _MAILBOX_RULES.format(
            postmaster=quoted(f"postmaster@{domain}"),
            everyone=quoted(f"*@{domain}"),
            policy=quoted(policy),
        )


def _tls(certificate: str) -> str:
    if certificate:
        return f"# Read again when the file changes.\n[tls]\ncertificate = {quoted(certificate)}\n"
    return (
        '# TLS is offered as soon as there is a certificate:\n# [tls]\n# certificate = "mail.pem"\n'
    )


def _behind(endpoint: str) -> str:
    """
    The delivery to whoever has the mailboxes.
    """
    store = endpoint.startswith("unix:") or endpoint.split(":")[2:3] == [_LMTP_PORT]
    return f'use = "{"lmtp" if store else "smtp"}"\nendpoint = {quoted(endpoint)}'


def _smarthost(answers: Mapping[str, str]) -> str:
    """
    The delivery to everywhere else.

    @raise ValueError: the smarthost has no port, or the user's name is none.
    """
    host, colon, port = answers["smarthost"].rpartition(":")
    if not answers["smarthost"]:
        return 'use = "mx"'
    if not (host and colon and port.isdigit()):
        raise ValueError("--smarthost: expected HOST:PORT")
    if hasControls(answers["user"]):
        raise ValueError("--user: expected a name on one line")
    lines = ['use = "smtp"', f"endpoint = {quoted(f'tcp:{host}:{port}')}"]
    if answers["user"]:
        lines += [
            f"user = {quoted(answers['user'])}",
            f"password_file = {quoted(answers['password_file'])}",
        ]
    return "\n".join(lines)


def _write(path: str, text: str) -> None:
    path = os.path.abspath(path)
    durable.write(f"{path}.{os.getpid()}.new", path, [text.encode("utf-8")], _MODE)


def _sayNext(kind: str, path: str, answers: Mapping[str, str]) -> None:
    """
    What has to follow.
    """
    directory = os.path.dirname(os.path.abspath(path))
    auth = ""
    if answers.get("user"):
        password = os.path.join(directory, answers["password_file"])
        if not os.path.exists(password):
            mode = "0640" if _isService(path) else "0600"
            say(f"the password of {answers['user']}:  the first line of {password}, mode {mode}")
    if kind == "submission":
        auth = f" --auth passwd:{directory}/users"
        say(f"a user:  deferrals passwd {directory}/users alice@{_domains(answers['domain'])[0]}")
    if _isService(path):
        if auth:
            say(f'in {_OPTIONS}:  DEFERRALS_OPTIONS="{auth.strip()}"')
        say("run it:  systemctl enable --now deferrals")
    else:
        say(f"run it:  twistd -n deferrals --config {path}{auth}")
