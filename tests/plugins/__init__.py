"""
Tests of L{deferrals.plugins}.
"""
