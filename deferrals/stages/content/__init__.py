"""
Content stages: what deferred recipients think of the message.
"""
