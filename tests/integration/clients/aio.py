"""aiosmtplib, with a caller that keeps the message and looks at who was refused."""

import asyncio
import sys

import aiosmtplib

port, sender, *recipients = sys.argv[1:]
data = sys.stdin.buffer.read()
sending = aiosmtplib.send(
    data, sender=sender, recipients=recipients, hostname="127.0.0.1", port=int(port)
)
try:
    refused, _ = asyncio.run(sending)
except aiosmtplib.SMTPException as error:
    sys.exit(repr(error))
for address, reply in refused.items():
    print(address, reply)
sys.exit(3 if refused else 0)
