"""
The operator's commands, and the socket on which a running server takes them.
"""
