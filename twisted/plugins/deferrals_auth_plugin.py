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
