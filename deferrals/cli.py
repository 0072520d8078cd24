"""
C{deferrals}: what an operator does beside running the server.
"""

from __future__ import annotations

import argparse
import email.utils
import pwd
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet import task
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from deferrals import __version__
from deferrals.app.permissions import User, mailboxRemarks, problems
from deferrals.app.service import checkConfig
from deferrals.app.signing import keyRemarks, published
from deferrals.app.web import webRemarks
from deferrals.client import Result, clientEndpoint, sendMessage, withCRLF
from deferrals.config.crosscheck import aliasRemarks, remarks
from deferrals.config.explaining import explained
from deferrals.config.patterns import rowRemarks
from deferrals.config.places import described
from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError
from deferrals.model.outgoing import PREFERENCE
from deferrals.model.spf import LookupFailed
from deferrals.operator.cluster import addCommands as addCluster
from deferrals.operator.commands import addCommands
from deferrals.operator.dkim import addCommand as addDkim
from deferrals.operator.init import addCommand as addInit
from deferrals.operator.output import complain, say
from deferrals.operator.passwd import addCommand as addPasswd
from deferrals.operator.plugins import addCommand as addPlugins
from deferrals.operator.reload import addCommand as addReload
from deferrals.operator.statecheck import lookAtQueue
from deferrals.plugins.finding import findPlugins, stagePlugins
from deferrals.stages.content.match.findings import EICAR, GTUBE

_FORMS = {
    "auto": PREFERENCE,
    **{form.value: (form,) for form in PREFERENCE},
    "plain": (),
}
_SAMPLES = {
    "plain": b"An ordinary message.\r\n",
    "gtube": GTUBE.encode() + b"\r\n",
    "eicar": EICAR + b"\r\n",
}


def parser() -> argparse.ArgumentParser:
    """
    The command line.
    """
    top = argparse.ArgumentParser(prog="deferrals", description=__doc__.partition(": ")[2])
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check-config", help="read a configuration, and start nothing")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--explain", action="store_true", help="say what was understood")
    check.add_argument("--uid", metavar="USER", help="the user that the server will run as")
    check.set_defaults(run=checkConfigFile)
    send = commands.add_parser(
        "send",
        help="send a message, and show what each recipient was answered",
        description="Exit status: 0 all recipients accepted, 1 some refused, 2 none accepted.",
    )
    send.add_argument(
        "--to", required=True, metavar="HOST:PORT", help="the server; or a Twisted client endpoint"
    )
    send.add_argument("--from", dest="sender", required=True, metavar="ADDRESS", help='"" for <>')
    send.add_argument(
        "--rcpt", dest="recipients", action="append", required=True, metavar="ADDRESS"
    )
    send.add_argument("--hello", default="", metavar="NAME", help="the name to give with EHLO")
    send.add_argument("--lmtp", action="store_true", help="speak LMTP")
    send.add_argument("--ask", choices=_FORMS, default="auto", help="the extension to ask for")
    send.add_argument("--verbose", "-v", action="store_true", help="show the dialogue")
    addDkim(commands, published_)
    addInit(commands, wrongIn, checkConfigFile)
    addPasswd(commands)
    addPlugins(commands)
    addCluster(commands)
    addReload(commands)
    message = send.add_mutually_exclusive_group(required=True)
    message.add_argument("--sample", choices=_SAMPLES, help="send a message made up here")
    message.add_argument("file", nargs="?", metavar="FILE", help="the message; - is standard input")
    send.set_defaults(run=send_)
    addCommands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """
    The program.

    @return: the exit status.
    """
    arguments = parser().parse_args(argv)
    run: Callable[[Any], int] = arguments.run
    return run(arguments)


def checkConfigFile(arguments: argparse.Namespace) -> int:
    """
    C{deferrals check-config}: 0 if it is good, 1 if it is not.
    """
    from twisted.internet import reactor

    try:
        config = load(arguments.file, stagePlugins())
        checkConfig(config, reactor)
        user = User.current()
        if arguments.uid is not None:
            user = _user(arguments.uid)
            _checkPermissions(config, user)
        queue = lookAtQueue(config)
    except ConfigError as error:
        for line in described(error).split("\n"):
            say(line, sys.stderr)
        return 1
    for broken in findPlugins()[1]:
        complain(f"no stages from {broken}")
    for key, remark in (
        *remarks(config),
        *keyRemarks(config),
        *webRemarks(config),
        *mailboxRemarks(config, user),
        *aliasRemarks(config),
        *rowRemarks(config),
    ):
        complain(f"{key}: {remark}")
    if queue:
        complain(f"state_dir: {queue}")
    if arguments.explain:
        for line in explained(config):
            say(line)
    rules, listeners = len(config.recipients), len(config.listen)
    say(f"{arguments.file}: good: {listeners} listeners, {rules} rules for recipients")
    return 0


def wrongIn(path: str, text: str) -> Sequence[tuple[str, str]]:
    """
    What is wrong with a configuration that is not in its file yet.

    @return: the key and what was expected there, for each problem.
    """
    from twisted.internet import reactor

    try:
        checkConfig(load(path, stagePlugins(), text), reactor)
    except ConfigError as error:
        return error.problems
    return []


def published_(config: Config, places: Sequence[str]) -> Sequence[Sequence[bytes] | LookupFailed]:
    """
    What DNS has for C{deferrals dkim check}.
    """
    found: list[Sequence[bytes] | LookupFailed] = []

    async def run(reactor: IReactorTime) -> None:
        found.extend(await published(config, reactor, places))

    _react(run)
    return found


def _user(name: str) -> User:
    """
    @raise ConfigError: there is none of this name.
    """
    try:
        uid = int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(None, [("--uid", f"no user is called {name}")]) from None
    return User.of(uid)


def _checkPermissions(config: Config, user: User) -> None:
    """
    @raise ConfigError: this user could not open what the server has to.
    """
    found = problems(config, user)
    if found:
        raise ConfigError(config.path, found)


def _sample(arguments: argparse.Namespace) -> bytes:
    now = time.time()
    fields = {
        "From": arguments.sender or "mailer-daemon",
        "To": ", ".join(arguments.recipients),
        "Subject": f"a {arguments.sample} sample",
        "Date": email.utils.formatdate(now),
        "Message-ID": email.utils.make_msgid(domain="sample.invalid"),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head.encode("utf-8") + b"\r\n" + _SAMPLES[arguments.sample]


def _message(arguments: argparse.Namespace) -> bytes:
    if arguments.sample is not None:
        return _sample(arguments)
    if arguments.file == "-":
        return withCRLF(sys.stdin.buffer.read())
    with open(arguments.file, "rb") as file:
        return withCRLF(file.read())


def _endpoint(reactor: IReactorTime, to: str) -> IStreamClientEndpoint:
    """
    @raise ValueError: C{to} names no server.
    """
    host, colon, port = to.rpartition(":")
    if colon and port.isdigit() and "=" not in to and not to.startswith(("tcp:", "unix:", "tls:")):
        host = host.removeprefix("[").removesuffix("]").replace(":", "\\:")
        to = f"tcp:{host}:{port}"
    elif ":" not in to:
        raise ValueError("HOST:PORT, or a Twisted client endpoint such as unix:/run/lmtp")
    try:
        return clientEndpoint(reactor, to)
    except TypeError:  # a part of it is missing, or is too much
        raise ValueError(f"{to}: no Twisted client endpoint") from None


def send_(arguments: argparse.Namespace) -> int:
    """
    C{deferrals send}.
    """
    try:
        message = _message(arguments)
    except OSError as error:
        complain(f"{arguments.file}: {error.strerror}")
        return 2
    statuses: list[int] = []

    async def run(reactor: IReactorTime) -> None:
        statuses.append(await _send(reactor, arguments, message))

    _react(run)
    return statuses[0] if statuses else 2


async def _send(reactor: IReactorTime, arguments: argparse.Namespace, message: bytes) -> int:
    """
    @return: the exit status.
    """
    try:
        result: Result = await sendMessage(
            reactor,
            _endpoint(reactor, arguments.to),
            arguments.sender,
            arguments.recipients,
            message,
            hello=arguments.hello,
            lmtp=arguments.lmtp,
            forms=_FORMS[arguments.ask],
            trace=_show if arguments.verbose else None,
        )
    except ValueError as error:
        complain(str(error))
        return 2
    except Exception as error:
        complain(f"{arguments.to}: {error}")
        return 2
    if arguments.verbose:
        say()
    _table(result)
    return _status(result)


def _react(run: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """
    Run the reactor until C{run} has ended; the exit status is ours to give.
    """
    try:
        task.react(run)
    except SystemExit as done:
        if done.code not in (0, None):
            raise


def _show(side: str, line: str) -> None:
    say(f"{side}: {line}")


def _table(result: Result) -> None:
    width = max(len(answer.recipient) for answer in result.answers)
    for answer in result.answers:
        reply = answer.reply
        text = " / ".join(reply.lines())
        say(f"{answer.recipient:<{width}}  {reply.code}  {reply.enhanced or '-':<7}  {text}")
    say(f"{'final reply':<{width}}  {result.final or 'none'}")


def _status(result: Result) -> int:
    if not result.accepted:
        return 2
    return 1 if result.refused else 0


if __name__ == "__main__":
    sys.exit(main())
