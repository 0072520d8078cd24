"""
Tests of L{deferrals.spool}.
"""
