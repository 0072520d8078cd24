"""
Whether a message is taken, and where it goes: the envelope, content and delivery stages, and the
chain that asks them.
"""
