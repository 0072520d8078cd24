"""Django, which drops what was refused at RCPT and says that the mail was sent."""

import smtplib
import sys

from django.conf import settings
from django.core.mail import EmailMessage

port, sender, *recipients = sys.argv[1:]
settings.configure(EMAIL_HOST="127.0.0.1", EMAIL_PORT=int(port))
text = sys.stdin.read().partition("\n\n")[2]
try:
    EmailMessage("a test", text, sender, recipients).send()
except smtplib.SMTPException as error:
    sys.exit(repr(error))
