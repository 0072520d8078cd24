"""twisted.mail, with a caller that keeps the message and looks at who was refused."""

import sys

from twisted.internet.task import react
from twisted.mail.smtp import SMTPDeliveryError, sendmail

port, sender, *recipients = sys.argv[1:]


async def main(reactor):
    data = sys.stdin.buffer.read()
    try:
        _, said = await sendmail("127.0.0.1", sender, recipients, data, port=int(port))
    except SMTPDeliveryError as error:
        raise SystemExit(str(error)) from None
    refused = [one for one in said if one[1] != 250]
    for address, code, text in refused:
        print(address.decode(), code, text)
    raise SystemExit(3 if refused else 0)


react(lambda reactor: main(reactor))
