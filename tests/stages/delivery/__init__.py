"""
Tests of L{deferrals.stages.delivery}.
"""
