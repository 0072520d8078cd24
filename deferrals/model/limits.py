"""
What one client may ask for, and how long each side may take.
"""

from __future__ import annotations

import attrs

from deferrals.model.settings import Octets, Seconds, checked, ofTheirTypes, positive

#: Messages in the content stages at once.
MAX_JUDGING = 200

#: Attempts to deliver that are under way at once.
MAX_DELIVERING = 100

#: No larger message is sent back whole in a notice.
BOUNCE_OCTETS = Octets(1 << 20)

#: How long transactions and deliveries may take to end, when the server stops.
GRACE_SECONDS = Seconds(10)


def _underAMinute(value: float) -> None:
    if not 0 < value <= 55:  # D-25
        raise ValueError(
            "more than 0 and at most 55 seconds: each reply is due within a minute (D-25)"
        )


def _headerSize(value: int) -> None:
    if not 0 < value <= 256 << 10:
        raise ValueError("more than 0 and at most 256K")


def _commandLine(value: int) -> None:
    if not 1024 <= value <= 64 << 10:
        raise ValueError("from 1K to 64K")


@attrs.frozen(  # it is one of two base classes
    kw_only=True, slots=False, field_transformer=ofTheirTypes
)
class ReplyTimes:
    """
    When the replies after the data are due.

    @ivar reply_deadline: the longest silence after the data, and between two
        replies there (D-25).
    @ivar consolidation_window: how long 353 is held back in the hope of a
        unanimous answer.
    """

    reply_deadline: Seconds = attrs.field(default=Seconds(50), validator=checked(_underAMinute))
    consolidation_window: Seconds = Seconds(2)


@attrs.frozen(kw_only=True, field_transformer=ofTheirTypes)
class Limits:
    """
    The C{[limits]} table.

    @ivar message_size: a larger message is refused, 552 5.3.4.
    @ivar header_size: a larger header section is refused, 552 5.3.4.
    @ivar recipients: per message; more get 452 4.5.3.
    @ivar extension_recipients: the same, under DEFERRALS or PRDR (P-13).
    @ivar hops: Received fields; more are a loop, 554 5.4.6.
    @ivar errors: commands refused with 5xx per connection, before it is closed.
    @ivar commands: per connection, RCPT and BDAT not counted; then it is closed
        with 421.
    @ivar transactions: per connection, told as MAILMAX (RFC 9422); then it is
        closed with 421.
    @ivar command_line: octets of the longest command line, CRLF included.
    @ivar connections: in total; more get 421 4.3.2.
    @ivar connections_per_address: from one IPv4 address, or one IPv6 /64; more
        get 421 4.7.0.
    @ivar handshake_timeout: how long a PROXY header, or a TLS handshake, may
        take.
    @ivar command_timeout: the longest silence between commands.
    @ivar idle_timeout: the longest time without a transaction, whatever else is
        said.
    @ivar data_timeout: the longest silence within the data.
    @ivar data_rate: octets per second that the data must have, measured over
        five minutes.
    @ivar auth_failures: failed attempts to authenticate per connection, before
        it is closed with 421.
    @ivar auth_delay: how long the answer to a failed attempt is held back;
        doubled with each further one from the same address within an hour, up
        to 30 seconds.
    @ivar auth_address_failures: wrong passwords for one account from one
        address within an hour; then no password is looked at, 454 4.7.0.
    @ivar auth_network_failures: the same for all accounts from one network (an
        IPv4 /24, an IPv6 /48); an account that has logged in from its address
        before is let through.
    @ivar auth_account_failures: wrong passwords for one account, from
        everywhere, within an hour; then an address that it has not logged in
        from has two attempts an hour.
    @ivar auth_timeout: how long it may take to check a password; the client is
        then told to come again later, 454 4.7.0.
    @ivar envelope_timeout: how long an envelope stage may take.
    """

    message_size: Octets = attrs.field(default=Octets(50 << 20), validator=checked(positive))
    header_size: Octets = attrs.field(default=Octets(256 << 10), validator=checked(_headerSize))
    recipients: int = attrs.field(default=1000, validator=checked(positive))
    extension_recipients: int = attrs.field(default=1000, validator=checked(positive))
    hops: int = attrs.field(default=50, validator=checked(positive))
    errors: int = attrs.field(default=20, validator=checked(positive))
    commands: int = attrs.field(default=20000, validator=checked(positive))
    transactions: int = attrs.field(default=1000, validator=checked(positive))
    command_line: Octets = attrs.field(default=Octets(4096), validator=checked(_commandLine))
    connections: int = attrs.field(default=5000, validator=checked(positive))
    connections_per_address: int = attrs.field(default=100, validator=checked(positive))
    handshake_timeout: Seconds = attrs.field(default=Seconds(60), validator=checked(positive))
    command_timeout: Seconds = attrs.field(default=Seconds(300), validator=checked(positive))
    idle_timeout: Seconds = attrs.field(default=Seconds(600), validator=checked(positive))
    data_timeout: Seconds = attrs.field(default=Seconds(300), validator=checked(positive))
    data_rate: Octets = attrs.field(default=Octets(100), validator=checked(positive))
    auth_failures: int = attrs.field(default=3, validator=checked(positive))
    auth_delay: Seconds = Seconds(3)
    auth_address_failures: int = attrs.field(default=10, validator=checked(positive))
    auth_network_failures: int = attrs.field(default=50, validator=checked(positive))
    auth_account_failures: int = attrs.field(default=50, validator=checked(positive))
    auth_timeout: Seconds = attrs.field(default=Seconds(30), validator=checked(positive))
    envelope_timeout: Seconds = attrs.field(default=Seconds(30), validator=checked(positive))
