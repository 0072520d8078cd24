"""
Tests of L{deferrals.model}.
"""
