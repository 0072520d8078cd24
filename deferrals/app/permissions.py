"""
What the user that the server runs as can read and write: files are opened again at a
reload and at each change, when the rights of the start are gone.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator

import attrs

from deferrals.config.tables import Config
from deferrals.model.digest import HTML, TEXT
from deferrals.stages.delivery.file import FileSettings
from deferrals.stages.delivery.maildir import MaildirSettings

#: A key, and what was expected there.
Problem = tuple[str, str]


@attrs.frozen
class User:
    """
    Who a process is.

    @ivar groups: all that it is in.
    """

    name: str
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, uid: int, gid: int | None = None) -> User:
        """
        What a process becomes that is given this user, and perhaps a group.
        """
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(str(uid), uid, frozenset({uid if gid is None else gid}))
        named = {one.gr_gid for one in grp.getgrall() if entry.pw_name in one.gr_mem}
        return cls(entry.pw_name, uid, frozenset({entry.pw_gid if gid is None else gid, *named}))

    @classmethod
    def current(cls) -> User:
        """
        This process.
        """
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        return cls(name, uid, frozenset({os.getegid(), *os.getgroups()}))

    def may(self, found: os.stat_result, bits: int) -> bool:
        """
        @param bits: 4 to read, 2 to write, 1 to go into a directory.
        """
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return found.st_mode >> shift & bits == bits


def problems(config: Config, user: User, passwords: tuple[str, ...] = ()) -> list[Problem]:
    """
    @param passwords: files that the command line names.
    @return: what this user cannot do, and has to.
    """
    found = []
    for key, path in [*_files(config), *(("--auth", path) for path in passwords)]:
        why = _unreadable(os.path.join(config.baseDir, path), user)
        if why:
            found.append((key, f"expected a file that {user.name} can read: {why}"))
    why = _unwritable(config.stateDir, user)
    if why:
        found.append(("state_dir", f"expected a directory that {user.name} can write: {why}"))
    return found


def mailboxRemarks(config: Config, user: User) -> list[Problem]:
    """
    @return: which mailboxes this user could not make, as it looks now: they may be
        on a disk that is still to be mounted.
    """
    found = []
    for key, path in _mailboxes(config):
        fixed, mark, _ = os.path.join(config.baseDir, path).partition("{")
        directory = os.path.dirname(fixed) if mark else fixed
        try:
            isUsed = bool(os.listdir(directory))
        except (OSError, ValueError):
            isUsed = False
        why = "" if isUsed else _unwritable(directory, user)
        if why:
            found.append((key, f"{user.name} cannot write mail there: {why}"))
    return found


def _mailboxes(config: Config) -> Iterator[tuple[str, str]]:
    """
    The keys and templates of directories on this machine.
    """
    deliveries = {f"deliveries.{name}": one for name, one in config.deliveries.items()}
    for index, rule in enumerate(config.recipients):
        if rule.deliver is not None and not isinstance(rule.deliver, str):
            deliveries[f"recipients[{index}].deliver"] = rule.deliver
    for key, delivery in deliveries.items():
        if isinstance(delivery.settings, MaildirSettings | FileSettings):
            yield f"{key}.path", delivery.settings.path


def _files(config: Config) -> Iterator[tuple[str, str]]:
    if config.tls is not None:
        yield "tls.certificate", config.tls.certificate
        yield "tls.key", config.tls.key or config.tls.certificate
    for index, listener in enumerate(config.listen):
        if listener.certificate is not None:
            yield f"listen[{index}].certificate", listener.certificate
            yield f"listen[{index}].key", listener.key or listener.certificate
    for name, lookUp in config.tables.items():
        if lookUp.path is not None:
            yield f"tables.{name}.path", lookUp.path
    if config.srs is not None:
        yield "srs.secret_file", config.srs.secret_file
    for index, table in enumerate(config.dkim):
        yield f"dkim[{index}].key", table.key
    if config.spool.password_file is not None:
        yield "spool.password_file", config.spool.password_file
    templates = config.refusals.digest_template
    if templates is not None:
        for name in (TEXT, HTML):
            yield "refusals.digest_template", os.path.join(templates, name)
    web = config.web
    if web is not None:
        names = ("certificate", "key", "token_file", "users")
        for name in names:
            path = getattr(web, name)
            if path is not None:
                yield f"web.{name}", path


def _unreadable(path: str, user: User) -> str:
    """
    @return: why; empty where it can be read, and where it is not there, which others
        say.
    """
    try:
        where = _blocked(os.path.dirname(path), user)
        if where or not os.path.exists(path):
            return where
        return "" if user.may(os.stat(path), 4) else _whose(path)
    except OSError as error:
        return f"{path}: {error.strerror}"


def _unwritable(path: str, user: User) -> str:
    """
    @return: why; one that is not there is made in the first directory above that is.
    """
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    try:
        where = _blocked(os.path.dirname(path), user)
        return where or ("" if user.may(os.stat(path), 7) else _whose(path))
    except OSError as error:
        return f"{path}: {error.strerror}"


def _blocked(directory: str, user: User) -> str:
    """
    @return: the first directory on the way that cannot be gone into, and whose it is.
    """
    above = os.path.dirname(directory)
    where = "" if above == directory else _blocked(above, user)
    if where or not os.path.isdir(directory):
        return where
    return "" if user.may(os.stat(directory), 1) else _whose(directory)


def _whose(path: str) -> str:
    found = os.stat(path)
    owner = User.of(found.st_uid).name
    return f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, and is {owner}'s"
