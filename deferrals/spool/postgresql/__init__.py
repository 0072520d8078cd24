"""
What several servers share in a PostgreSQL database.
"""
