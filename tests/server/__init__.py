"""
Tests of L{deferrals.server}.
"""
