import signal

from twisted.application.service import ServiceMaker


class _ServiceMaker(ServiceMaker):
    @property
    def options(self):
        # What is to be read again, or opened again, is not read yet: while our modules
        # are loaded, such a signal must not end the process.  Then tap answers it.
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        return super().options


deferrals = _ServiceMaker(
    "deferrals",
    "deferrals.tap",
    "A mail server that gives every recipient their own answer.",
    "deferrals",
)
