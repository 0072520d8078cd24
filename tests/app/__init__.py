"""
Tests of L{deferrals.app}.
"""
