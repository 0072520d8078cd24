"""Python's smtplib, with a caller that keeps the message and looks at who was refused."""

import smtplib
import sys

port, sender, *recipients = sys.argv[1:]
try:
    with smtplib.SMTP("127.0.0.1", int(port)) as client:
        refused = client.sendmail(sender, recipients, sys.stdin.buffer.read())
except smtplib.SMTPException as error:
    sys.exit(repr(error))
for address, reply in refused.items():
    print(address, reply)
sys.exit(3 if refused else 0)
