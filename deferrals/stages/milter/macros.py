"""
Macros: what a filter is told of a message beside the protocol's own steps, by the names
that Sendmail gave them, at the steps where filters expect them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.networks import LOCAL, UNKNOWN
from deferrals.model.text import cleaned


class FilterStep(enum.Enum):
    """
    The steps at which filters are told something.
    """

    CONNECT = "connect"
    HELO = "helo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    HEADER = "header"
    EOH = "end of header"
    BODY = "body"
    EOM = "end of message"


#: Where filters look for macros that we have no value for, but a configuration may.
_PLACES = {
    FilterStep.HELO: ("cipher_bits", "cert_subject", "cert_issuer", "verify"),
    FilterStep.MAIL: ("auth_type", "auth_author", "auth_ssf", "mail_host", "mail_mailer"),
    FilterStep.RCPT: ("rcpt_host", "rcpt_mailer", "nrcpts", "nbadrcpts"),
    FilterStep.EOM: ("msg_id", "msg_size"),
}

#: Where filters look for those that we know.
_OWN = {
    FilterStep.CONNECT: ("j", "_", "v", "{daemon_name}", "{client_addr}", "{client_name}"),
    FilterStep.HELO: ("{tls_version}", "{cipher}"),
    FilterStep.MAIL: ("i", "{mail_addr}", "{auth_authen}"),
    FilterStep.RCPT: ("{rcpt_addr}",),
    FilterStep.DATA: ("i",),
    FilterStep.EOH: ("i",),
    FilterStep.EOM: ("i",),
}


def written(name: str) -> str:
    """
    A macro's name as the protocol has it: one letter, or several in braces.
    """
    name = name.removeprefix("{").removesuffix("}")
    return name if len(name) == 1 else f"{{{name}}}"


def placeOf(name: str) -> FilterStep:
    """
    The step at which a macro is sent that a configuration names: what is in no table of
    Sendmail's is there from the beginning.
    """
    for step, names in _OWN.items():
        if name in names:
            return step
    bare = name.strip("{}")
    return next((step for step, names in _PLACES.items() if bare in names), FilterStep.CONNECT)


class Macros:
    """
    The macros of one message.

    @param hostname: this server's name.
    @param version: this program, and its version.
    @param more: those of the configuration, which count more than our own.
    """

    def __init__(
        self, envelope: Envelope, hostname: str, version: str, more: Mapping[str, str]
    ) -> None:
        client = envelope.client
        name = client.hostname or ("localhost" if client.address == LOCAL else UNKNOWN)
        address = "127.0.0.1" if client.address == LOCAL else client.address
        tls, _, cipher = (client.tls or "").partition(" ")
        found = {
            "j": hostname,
            "_": f"{name} [{address}]",
            "v": version,
            "i": envelope.id,
            "{daemon_name}": envelope.listener,
            "{client_addr}": address,
            "{client_name}": name,
            "{tls_version}": tls,
            "{cipher}": cipher,
            "{mail_addr}": envelope.senderText,
            "{auth_authen}": client.user or "",
        }
        self._values = {key: cleaned(value) for key, value in found.items() if value}
        self._places = {step: list(names) for step, names in _OWN.items()}
        for key, value in more.items():
            place = self._places[placeOf(key)]
            if key not in place:
                place.append(key)
            self._values[key] = value

    def at(
        self, step: FilterStep, wanted: tuple[str, ...] | None, recipient: Recipient | None = None
    ) -> dict[str, str]:
        """
        @param wanted: the ones that the filter has asked for at this step; C{None} where
            it has not said which.
        @return: values by name, in the order in which they are sent.
        """
        names = self._places.get(step, ()) if wanted is None else map(written, wanted)
        found = {name: self._values[name] for name in names if name in self._values}
        isNamed = wanted is None or "{rcpt_addr}" in map(written, wanted)
        if step is FilterStep.RCPT and recipient is not None and isNamed:
            found.setdefault("{rcpt_addr}", cleaned(str(recipient)))
        return found

    @property
    def session(self) -> tuple[tuple[str, str], ...]:
        """
        What is said of the session: equal for its messages.
        """
        return (*self.at(FilterStep.CONNECT, None).items(), *self.at(FilterStep.HELO, None).items())
