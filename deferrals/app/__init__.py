"""
The server: everything is built and wired here.
"""
