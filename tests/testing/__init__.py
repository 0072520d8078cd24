"""
Tests of L{deferrals.testing}.
"""
