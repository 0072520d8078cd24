"""
Tests of L{deferrals.stages.envelope}.
"""
