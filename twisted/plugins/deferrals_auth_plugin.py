from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


@implementer(ICheckerFactory, IPlugin)
class _PasswordFileFactory:
    authType = "passwd"
    authHelp = "A password file, as 'deferrals passwd' writes it: Argon2 and SCRAM-SHA-256."
    argStringFormat = "Name of the file."

    @property
    def credentialInterfaces(self):
        return namedAny("deferrals.auth.checker.PasswordFile").credentialInterfaces

    def generateChecker(self, argstring):
        namedAny("deferrals.auth.checker.readPasswords")(argstring)  # say now what is wrong
        inThread = namedAny("twisted.internet.threads.deferToThread")
        return namedAny("deferrals.auth.checker.PasswordFile")(argstring, inThread)


passwordFile = _PasswordFileFactory()


@implementer(ICheckerFactory, IPlugin)
class _DovecotFactory:
    authType = "dovecot"
    authHelp = (
        "Dovecot's users: the socket that Dovecot has for authentication clients, such as"
        " /run/dovecot/auth-client. PLAIN and LOGIN only."
    )
    argStringFormat = "Path of the socket, or a Twisted client endpoint."

    @property
    def credentialInterfaces(self):
        return namedAny("deferrals.auth.dovecot.DovecotChecker").credentialInterfaces

    def generateChecker(self, argstring):
        reactor = namedAny("twisted.internet.reactor")
        return namedAny("deferrals.auth.dovecot.makeChecker")(argstring, reactor)


dovecot = _DovecotFactory()
