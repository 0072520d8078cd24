"""
Tests of L{deferrals.config}.
"""
