"""
Who may have the message: the envelope, content and delivery stages, and the
chain that asks them.
"""
