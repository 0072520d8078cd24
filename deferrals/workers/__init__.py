"""
Several processes that are one server.
"""
