"""
Tests of L{deferrals.spool.sqlite}.
"""
