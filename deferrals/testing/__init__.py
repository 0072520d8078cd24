"""
Help for testing stages, spools and whole applications, shipped with the package.

A stage: mix a contract into a C{SynchronousTestCase}, say how to make yours, and
every promise that it has to keep is tested.  An application: L{MemoryServer} is
the whole server without a socket and with a clock that the test moves;
L{TestServer} listens on a port of loopback.  Values come from C{make…}, and
whatever a stage is given has a fake.
"""

from deferrals.testing.contracts import (
    ContentStageContract,
    DeliveryStageContract,
    EnvelopeStageContract,
    ReportingDeliveryContract,
    TableContract,
    WideTableContract,
)
from deferrals.testing.fakes import (
    FakeContent,
    FakeDelivery,
    FakeEnvelope,
    FakeNextHops,
    FakeServices,
    FakeSpool,
)
from deferrals.testing.replies import RepliesContract
from deferrals.testing.servers import MemoryServer, MemorySession, TestServer
from deferrals.testing.spoolcontract import SharedSpoolContract, SpoolContract
from deferrals.testing.values import (
    CLIENT,
    LATER,
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
    tableKeys,
)

__all__ = [
    "CLIENT",
    "LATER",
    "ContentStageContract",
    "DeliveryStageContract",
    "EnvelopeStageContract",
    "FakeContent",
    "FakeDelivery",
    "FakeEnvelope",
    "FakeNextHops",
    "FakeServices",
    "FakeSpool",
    "MemoryServer",
    "MemorySession",
    "RepliesContract",
    "ReportingDeliveryContract",
    "SharedSpoolContract",
    "SpoolContract",
    "TableContract",
    "TestServer",
    "WideTableContract",
    "makeAddressees",
    "makeEnvelope",
    "makeMessage",
    "makeRecipient",
    "tableKeys",
]
