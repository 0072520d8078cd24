"""
Durable ownership of messages.
"""
