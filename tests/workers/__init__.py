"""
Tests of L{deferrals.operator}.
"""
