"""
The procedure that brings the recipients of mixed mail apart, with models of
senders and without a server.
"""
