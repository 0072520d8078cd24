"""
The rules of mail, without I/O: replies, addresses, envelopes, verdicts, the
transaction and the block of replies after the data.

Nothing below this package imports Twisted, zope, os or time: time is an
argument.  If you can read SMTP, you can read this.
"""
