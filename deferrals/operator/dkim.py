"""
C{deferrals dkim}: make a key for signatures, and compare keys with what DNS has.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from deferrals import durable
from deferrals.config.signingkeys import readKeys
from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError
from deferrals.model.dkim import (
    KeyType,
    checkSelector,
    placeOf,
    recordOf,
    recordProblem,
    signingDomain,
    zoneLine,
)
from deferrals.model.dkimkeys import PrivateKey, kindOf, newKey, pemOf, publicOctets
from deferrals.operator.output import complain, say
from deferrals.plugins.finding import stagePlugins

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

#: Asks the DNS servers of a configuration for the texts of names: these, or why they
#: are not known.
Published: TypeAlias = Callable[[Config, Sequence[str]], Sequence[Sequence[bytes] | Exception]]


def addCommand(commands: Commands, published: Published) -> None:
    """
    Add C{dkim} to the command line.
    """
    dkim = commands.add_parser("dkim", help="keys for signatures: make one, compare with DNS")
    verbs = dkim.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    new = verbs.add_parser(
        "new",
        help="make a key, and show what goes into the configuration and into DNS",
        description="Exit status: 0, 2 if there is no key. No file is overwritten.",
    )
    new.add_argument("domain", metavar="DOMAIN")
    new.add_argument("--selector", metavar="S", help="by default the year and the month")
    new.add_argument("--ed25519", action="store_true", help="not RSA of 2048 bits")
    new.add_argument("--directory", default=".", metavar="DIRECTORY", help="where to")
    new.set_defaults(run=new_)
    check = verbs.add_parser(
        "check",
        help="compare the keys of a configuration with what DNS has",
        description="Exit status: 0 all right, 1 a record differs or is missing, 2 not known.",
    )
    check.add_argument("domain", nargs="?", metavar="DOMAIN", help="only the keys of this one")
    check.add_argument("--config", "-c", metavar="FILE", help="the server's configuration")
    check.set_defaults(run=lambda arguments: check_(arguments, published))


def new_(arguments: argparse.Namespace) -> int:
    """
    C{deferrals dkim new}.

    @return: the exit status.
    """
    kind: KeyType = "ed25519" if arguments.ed25519 else "rsa"
    month = time.strftime("%Y%m")
    selector = arguments.selector or (f"{month}-{kind}" if arguments.ed25519 else month)
    try:
        domain = signingDomain(arguments.domain)
        checkSelector(selector)
    except ValueError as error:
        complain(f"expected {error}")
        return 2
    key = newKey(kind)
    path = os.path.join(os.path.abspath(arguments.directory), f"{domain}.{selector}.pem")
    try:
        _write(path, pemOf(key))
    except OSError as error:
        complain(f"{path}: {error.strerror}")
        return 2
    say("[[dkim]]")
    for name, value in (("domain", domain), ("selector", selector), ("key", path)):
        say(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    say()
    say(_zoneLine(placeOf(selector, domain), key))
    return 0


def _zoneLine(place: str, key: PrivateKey) -> str:
    return zoneLine(place, recordOf(kindOf(key), publicOctets(key)))


def _write(path: str, pem: bytes) -> None:
    """
    Make a file that only its owner can read; in a directory that hands down its group,
    that group, too.

    @raise FileExistsError: there is one.
    """
    handsDown = os.stat(os.path.dirname(path)).st_mode & stat.S_ISGID
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(pem)
            os.fchmod(file.fileno(), 0o640 if handsDown else 0o600)
        durable.syncWithName(path)
    except BaseException:
        os.unlink(path)  # it would be in the way of the next attempt
        raise


def check_(arguments: argparse.Namespace, published: Published) -> int:
    """
    C{deferrals dkim check}.

    @return: the exit status.
    """
    try:
        config = load(arguments.config, stagePlugins())
        keys = _keys(config, arguments.domain)
    except (ConfigError, ValueError) as error:
        complain(str(error))
        return 2
    found = published(config, [place for place, _ in keys])
    return max(
        _compared(place, key, records) for (place, key), records in zip(keys, found, strict=True)
    )


def _keys(config: Config, domain: str | None) -> list[tuple[str, PrivateKey]]:
    """
    @return: for each key its place in DNS.
    @raise ValueError: there is none, or it cannot be used.
    """
    wanted = None if domain is None else signingDomain(domain)
    found = [(table.place, secret) for table, secret in readKeys(config, wanted)]
    if not found:
        whose = "" if wanted is None else f" for {wanted}"
        raise ConfigError(config.path, [("dkim", f"no [[dkim]] table{whose}")])
    return found


def _compared(place: str, key: PrivateKey, records: Sequence[bytes] | Exception) -> int:
    """
    Say whether DNS has a key.

    @return: the exit status.
    """
    if isinstance(records, Exception):
        complain(f"{place}: {records}")
        return 2
    problem = recordProblem(records, kindOf(key), publicOctets(key))
    if not problem:
        say(f"{place}: good")
        return 0
    say(f"{place}: {problem}")
    say(_zoneLine(place, key))
    return 1
