"""
Whether a client may log in: password files, and any other credentials checkers
of Twisted's.
"""
