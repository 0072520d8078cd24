"""
From release to the last recipient's outcome.
"""
