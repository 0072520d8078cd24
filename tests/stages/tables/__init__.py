"""
Tests of L{deferrals.stages.tables}.
"""
