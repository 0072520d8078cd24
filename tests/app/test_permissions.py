"""
What the user can read that the server runs as.
"""

from __future__ import annotations

import os

from deferrals.app.permissions import User, problems
from tests.configs import LISTEN, ConfigCase

#: A user that owns nothing here.
STRANGER = User("mail", 4242, frozenset({4242}))


class PermissionTests(ConfigCase):
    """
    L{problems}.
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        above = self.directory
        while above != "/":  # others may go this way
            if not os.stat(above).st_mode & 0o001:
                os.chmod(above, os.stat(above).st_mode | 0o011)
            above = os.path.dirname(above)

    def file(self, name: str, mode: int) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "w"):
            pass
        os.chmod(path, mode)
        return path

    def found(self, user: User, text: str, *passwords: str) -> list[str]:
        state = os.path.join(self.directory, "state")
        config = self.load(f'state_dir = "{state}"\n{LISTEN}{text}')
        return [key for key, _ in problems(config, user, passwords)]

    def test_files(self) -> None:
        """Certificate, key and password file are read again later: by that user."""
        os.chmod(self.directory, 0o777)
        certificate, key = self.file("cert.pem", 0o644), self.file("key.pem", 0o600)
        text = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
        self.assertEqual(
            self.found(STRANGER, text, self.file("users", 0o600)), ["tls.key", "--auth"]
        )
        os.chmod(key, 0o644)
        self.assertEqual(self.found(STRANGER, text, self.file("users", 0o604)), [])
        self.assertEqual(self.found(User("root", 0, frozenset()), text), [])
        self.assertEqual(self.found(User.current(), text), [])

    def test_group(self) -> None:
        """A group's right is enough; that of others does not help who is in the group."""
        os.chmod(self.directory, 0o777)
        key, gid = self.file("key.pem", 0o640), os.stat(self.directory).st_gid
        text = f'[tls]\ncertificate = "{key}"\n'
        member = User("mail", 4242, frozenset({gid}))
        self.assertEqual(self.found(member, text), [])
        self.assertEqual(self.found(STRANGER, text), ["tls.certificate", "tls.key"])
        os.chmod(key, 0o604)
        self.assertEqual(self.found(member, text), ["tls.certificate", "tls.key"])

    def test_directories(self) -> None:
        """State is made in the directory above; no file is read behind a closed one."""
        os.chmod(self.directory, 0o755)
        self.assertEqual(self.found(STRANGER, ""), ["state_dir"])
        os.mkdir(os.path.join(self.directory, "state"), 0o700)
        self.assertEqual(self.found(STRANGER, ""), ["state_dir"])
        key = self.file("key.pem", 0o644)
        os.chmod(self.directory, 0o700)
        text = f'[tls]\ncertificate = "{key}"\n'
        self.assertIn("tls.certificate", self.found(STRANGER, text))

    def test_said(self) -> None:
        """The line says which file, its mode, its owner, and who cannot read it."""
        os.chmod(self.directory, 0o777)
        key = self.file("key.pem", 0o600)
        config = self.load(f'{LISTEN}[tls]\ncertificate = "{key}"\n')
        text = dict(problems(config, STRANGER))["tls.key"]
        self.assertIn(f"expected a file that mail can read: {key} has mode 0600", text)

    def test_user(self) -> None:
        """A user has the groups that the system says; perhaps another first one."""
        self.assertIn(os.getegid(), User.current().groups)
        self.assertEqual(User.of(0).name, "root")
        self.assertIn(77, User.of(0, 77).groups)
        self.assertEqual(User.of(4242), User("4242", 4242, frozenset({4242})))
