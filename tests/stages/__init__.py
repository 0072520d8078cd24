"""
Tests of L{deferrals.stages}.
"""
