"""
Who may log in: password files, and whatever other checkers Twisted's cred has.
"""
