"""
What the user can read that the server runs as.
"""

from __future__ import annotations

import os

from deferrals.app.permissions import User, mailboxRemarks, problems
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

    def test_tables(self) -> None:
        """A table's file is read by that user, too."""
        os.chmod(self.directory, 0o777)
        for mode, keys in ((0o600, ["tables.people.path"]), (0o604, [])):
            path = self.file("people", mode)
            text = f'[tables.people]\nuse = "file"\npath = "{path}"\n'
            self.assertEqual(self.found(STRANGER, text), keys)

    def test_secret(self) -> None:
        """The secrets of SRS are read again at a reload."""
        os.chmod(self.directory, 0o777)
        path = self.file("srs.secret", 0o600)
        text = LISTEN.replace("none", "out") + (
            f'[srs]\ndomain = "mx.example"\nsecret_file = "{path}"\n[deliveries.out]\nuse = "mx"\n'
        )
        config = self.load(f'hostname = "mx.example"\nstate_dir = "{self.directory}"\n{text}')
        self.assertEqual([key for key, _ in problems(config, STRANGER)], ["srs.secret_file"])
        self.assertEqual(problems(config, User.current()), [])

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

    def test_mailboxes(self) -> None:
        """Where mail is to be written: what cannot be made by that user is said."""
        mail, full = os.path.join(self.directory, "mail"), os.path.join(self.directory, "full")
        os.makedirs(os.path.join(full, "example.net"))
        text = (
            f'{LISTEN}[deliveries.a]\nuse = "maildir"\npath = "{mail}/{{domain}}/{{local}}"\n'
            f'[deliveries.b]\nuse = "file"\npath = "{mail}"\n'
            f'[deliveries.c]\nuse = "maildir"\npath = "{full}/{{domain}}/{{local}}"\n'
            '[deliveries.d]\nuse = "discard"\n'
            '[policies.open]\nenvelope = "accept"\n[[recipients]]\nmatch = "*@example.net"\n'
            f'policy = "open"\ndeliver = {{ use = "maildir", path = "{mail}/{{local}}" }}\n'
        )
        config = self.load(text)
        keys = ["deliveries.a.path", "deliveries.b.path", "recipients[0].deliver.path"]
        found = mailboxRemarks(config, STRANGER)
        self.assertEqual([key for key, _ in found], keys)
        for _, why in found:
            self.assertIn(f"cannot write mail there: {self.directory} has mode 0", why)
        os.mkdir(mail, 0o755)
        self.assertEqual([key for key, _ in mailboxRemarks(config, STRANGER)], keys)
        self.assertEqual(mailboxRemarks(config, User.current()), [])
        os.chmod(mail, 0o777)
        self.assertEqual(mailboxRemarks(config, STRANGER), [])
