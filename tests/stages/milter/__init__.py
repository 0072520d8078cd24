"""
Tests of L{deferrals.stages.milter}.
"""
