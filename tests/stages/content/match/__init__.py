"""
Tests of L{deferrals.stages.content.match}.
"""
