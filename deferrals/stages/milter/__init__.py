"""
Filters of the milter protocol, asked as a mail server asks them.
"""
