"""
The spool in an SQLite database.
"""
